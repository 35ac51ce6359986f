"""The weights in `weights/`: checked against their manifest, and trained again.

    python -m speed.commands.shipped_weights [CHECKPOINT] --dry-run
    python -m speed.commands.shipped_weights [CHECKPOINT] [--real NAME=DIR ...] [--layout FILE] \
        [--out FILE]

Without --dry-run the command of the manifest trains the network again from nothing, in a temporary
folder, which takes as long as the first training did. Its scores on held-out phantoms, and on the
real patients of each folder that is given under the name that the manifest has for it, are printed
beside the shipped ones.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from evaluation.tables.per_case import mean_scores, read_csv
from speed.record import CLI, named_paths, write_record
from studies.settings.command_line import ROOT
from studies.training.shipped import check_shipped, find_shipped


def retrained(
    manifest: dict[str, Any], real: dict[str, Path], layout: Path | None = None
) -> dict[str, dict[str, float]]:
    """Train by the command of a manifest; return the mean scores of every group of patients.

    Args:
        manifest: the manifest of shipped weights.
        real: folders of real patients by the name of their group.
        layout: describes the files of these folders; None: they are recognised by their names.
    """
    named = () if layout is None else ("--data.layout", str(layout.resolve()))
    experiment = manifest["run"]["experiment"]
    tables = {}
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "WANDB_MODE": "disabled"}

        def run(*words: str) -> None:
            subprocess.run([*CLI, *words], cwd=place, env=environment, check=True)

        run(*manifest["command"][1:])
        (folder,) = (path for path in (Path(place) / "runs" / experiment).iterdir())
        checkpoint = str(folder / "checkpoints" / "best.ckpt")
        run("test", "--ckpt_path", checkpoint)
        tables["held-out phantoms"] = folder / "per_case.csv"
        for name, root in real.items():
            results = Path(place) / name
            where = ("--data.root", str(root.resolve()), *named, "--results_dir", str(results))
            run("test", "--ckpt_path", checkpoint, *where)
            tables[name] = results / "per_case.csv"
        return {name: mean_scores(read_csv(table)) for name, table in tables.items()}


def compared(shipped: dict[str, Any], again: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return a row for every score that both have: shipped, retrained, difference."""
    return [
        {
            "patients": name,
            "score": score,
            "shipped": value,
            "retrained": round(again[name][score], 4),
            "difference": round(again[name][score] - value, 4),
        }
        for name, scores in shipped.items()
        for score, value in scores.items()
        if score in again.get(name, {})
    ]


def main(words: list[str] | None = None) -> None:
    """Check the shipped weights; without --dry-run train them again and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="default: that in weights/")
    parser.add_argument("--dry-run", action="store_true", help="only check the files")
    parser.add_argument("--real", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--layout", type=Path, metavar="FILE", help="as --data.layout")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/shipped_weights.json")
    arguments = parser.parse_args(words)
    checkpoint = arguments.checkpoint or find_shipped()
    manifest = check_shipped(checkpoint)
    name = f"{manifest['run']['experiment']}/{manifest['run']['id']}"
    print(f"{checkpoint}: {manifest['megabytes']} MB, the weights of {name}, as its manifest says")
    if arguments.dry_run:
        return
    again = retrained(manifest, dict(named_paths(arguments.real)), arguments.layout)
    rows = compared(manifest["scores"], again)
    for row in rows:
        print(
            "{patients:<24}{score:<10}{shipped:9.4f}{retrained:9.4f}{difference:+9.4f}".format(
                **row
            )
        )
    write_record(arguments.out, {"run": manifest["run"], "rows": rows})


if __name__ == "__main__":
    main()
