"""The systems of the dual-fusion paper's last table, trained alike on phantoms and tested alike.

    python -m speed.rivals [--epochs 8] [--patches 150] [--out speed/results/rivals.json]

Every stage of every system sees the same phantoms, split, patches and number of epochs; early
stopping is off. Each is its experiment file otherwise. Scores are those of `lightning test`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evaluation.tables import mean_scores, read_csv
from lightning_modules.callbacks import read_metrics
from studies.arguments import ROOT
from studies.environment import git_revision, hardware, versions

SYSTEMS = ("fusion", "zhang2021", "zhou2022", "akbar2022")
CLI = [sys.executable, str(ROOT / "cli.py")]


def train_and_test(name: str, folder: Path, protocol: list[str]) -> dict[str, Any]:
    """Return what one system cost and scored; its stages share the folder."""
    config = ["--config", f"experiments/{name}.yaml"]
    began = time.monotonic()
    subprocess.run([*CLI, "fit", *config, *protocol], cwd=folder, check=True)
    minutes = (time.monotonic() - began) / 60
    subprocess.run([*CLI, "test", *config], cwd=folder, check=True)
    (run,) = (path.parent for path in folder.glob(f"runs/{name}/*/manifest.json"))
    manifest = json.loads((run / "manifest.json").read_text())
    rows = read_csv(run / "per_case.csv")
    return {
        "system": name,
        "parameters": manifest["parameters"],
        "minutes_with_its_stages": round(minutes, 2),
        "loss_by_epoch": [round(row["train/loss"], 4) for row in read_metrics(run / "metrics.csv")],
        "validation": manifest["scores"],
        "held_out_phantoms": len(rows),
        "test": {key: round(value, 4) for key, value in mean_scores(rows).items()},
    }


def main() -> None:
    """Train the systems one after the other; write what they cost and scored."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--patches", type=int, default=150)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    protocol = ["--trainer.max_epochs", str(arguments.epochs)]
    protocol += ["--data.patches_per_epoch", str(arguments.patches), "--trainer.callbacks", "[]"]
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name in arguments.systems:
            rows.append(train_and_test(name, Path(folder), protocol))
            minutes, dice = rows[-1]["minutes_with_its_stages"], rows[-1]["test"]["dice/WT"]
            print(f"{name:<12} {minutes:6.1f} min  WT {dice:.3f}")
    content = {
        "what": "systems of the dual-fusion paper's last table at size tiny, on phantoms",
        "protocol": {"epochs": arguments.epochs, "patches_per_epoch": arguments.patches},
        "systems": rows,
        "hardware": hardware(),
        "versions": versions(),
        "git": git_revision(),
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
