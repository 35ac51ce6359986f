"""Transfer from phantoms: Dice on real patients, and on held-out phantoms by volume.

    python -m speed.data.phantom_transfer --real GROUP=DIR [--real ...] \
        --run NAME=CHECKPOINT [--run ...] [--config OVERLAY]

Every checkpoint is tested with ``lightning test`` on the real patients (none of which it has seen)
and on the test patients of its own phantom split. Folders of one group, such as those of several
BraTS years, are scored together. Runs whose names end in ``seed N`` are repetitions: their mean and
spread stand in the table too. All scores are those after ``--postprocessing on``, by the rules of
the overlay if one is given; those before it stand beside the means. An easy phantom would show as a
high Dice on phantoms of every size beside a low one on patients.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics.means import column, nan_mean
from evaluation.tables.per_case import read_csv
from lightning_modules.segmentation import UNPROCESSED
from lightning_modules.weights.checkpoints import read_card
from speed.record import CLI, named_paths, write_record
from studies.settings.command_line import ROOT

REGIONS = ("WT", "TC", "ET")
VOLUMES_ML = ((0, 40), (40, 80), (80, 120), (120, 1000))


def score(checkpoint: Path, *options: str) -> list[dict[str, Any]]:
    """Return the rows of ``per_case.csv`` that ``lightning test`` writes for a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*CLI, "test", "--ckpt_path", str(checkpoint), "--results_dir", folder, *options]
        command += ["--postprocessing", "on"]
        subprocess.run(command, check=True)
        return read_csv(Path(folder) / "per_case.csv")


def by_volume(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean whole-tumour Dice of the phantoms in every range of reference volume."""
    table = {}
    for low, high in VOLUMES_ML:
        dice = [row["dice/WT"] for row in rows if low <= row["volume_ml/WT"] < high]
        mean = round(float(np.mean(dice)), 4) if dice else None
        table[f"{low} to {high} ml"] = {"patients": len(dice), "dice_WT": mean}
    return table


def means(rows: list[dict[str, Any]], before: str = "") -> dict[str, float]:
    """Return mean Dice by region; before post-processing with the prefix of those columns."""
    return {
        region: round(nan_mean(column(rows, f"{before}dice/{region}")), 4) for region in REGIONS
    }


def measure(checkpoint: Path, folders: list[tuple[str, Path]], *rules: str) -> dict[str, Any]:
    """Score one checkpoint on every group of real patients and on its held-out phantoms.

    Args:
        checkpoint: the checkpoint.
        folders: the group and the place of each folder of real patients.
        rules: words of a command that set post-processing; without any, that of the training.
    """
    real: dict[str, list[dict[str, Any]]] = {}
    for group, folder in folders:
        words = ("--data.root", str(folder.resolve()), *rules)
        real.setdefault(group, []).extend(score(checkpoint, *words))
    phantoms = score(checkpoint, *rules)
    manifest = checkpoint.resolve().parent.parent / "manifest.json"
    every = [row for rows in real.values() for row in rows]
    groups = {**real, "all patients": every, "held-out phantoms": phantoms}
    known = json.loads(manifest.read_text()) if manifest.is_file() else {}
    wall, selected = known.get("wall_seconds"), known.get("scores", {})
    return {
        "run": read_card(checkpoint)["run"],
        "training_minutes_of_last_stage": round(wall / 60, 1) if wall else None,
        "validation": {name: round(value, 4) for name, value in selected.items()},
        "patients": {
            group: {
                row["case_id"]: {key: round(row[f"dice/{key}"], 4) for key in REGIONS}
                for row in rows
            }
            for group, rows in real.items()
        },
        "mean": {group: means(rows) for group, rows in groups.items()},
        "mean before post-processing": {
            group: means(rows, UNPROCESSED) for group, rows in groups.items()
        },
        "phantom_dice_WT_by_volume": by_volume(phantoms),
    }


def over_seeds(runs: dict[str, Any]) -> dict[str, Any]:
    """Return mean, lowest and highest of the means of runs that differ by their seed alone."""
    repeated: dict[str, list[dict[str, dict[str, float]]]] = {}
    for name, run in runs.items():
        system, seed, _ = name.partition(" seed ")
        if seed and "mean" in run:
            repeated.setdefault(system, []).append(run["mean"])
    return {
        system: {
            group: {
                region: {
                    "mean": round(float(np.mean(values)), 4),
                    "range": [min(values), max(values)],
                }
                for region in REGIONS
                if (values := [one[group][region] for one in found])
            }
            for group in found[0]
        }
        | {"seeds": len(found)}
        for system, found in repeated.items()
    }


def main() -> None:
    """Score every checkpoint and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", action="append", required=True, metavar="GROUP=DIR")
    parser.add_argument("--run", action="append", required=True, metavar="NAME=CHECKPOINT")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/phantom_transfer.json")
    parser.add_argument("--config", metavar="OVERLAY", help="whose post-processing is applied")
    arguments = parser.parse_args()
    folders = named_paths(arguments.real)
    rules = ("--config", arguments.config) if arguments.config else ()
    runs = json.loads(arguments.out.read_text())["runs"] if arguments.out.is_file() else {}
    for name, checkpoint in named_paths(arguments.run):
        runs[name] = measure(checkpoint, folders, *rules)
        print(name, json.dumps(runs[name]["mean"]), flush=True)
        write_record(arguments.out, {"runs": runs, "over_seeds": over_seeds(runs)})


if __name__ == "__main__":
    main()
