"""Transfer from phantoms: Dice on real patients, and on held-out phantoms by volume.

    python -m speed.data.phantom_transfer --real DIR --run NAME=CHECKPOINT [--run ...]

Every checkpoint is tested with ``lightning test`` on the real patients (none of which it has seen)
and on the test patients of its own phantom split. An easy phantom would show as a high Dice on
phantoms of every size beside a low one on patients.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.weights.checkpoints import read_card
from studies.runs.environment import git_revision, hardware, versions
from studies.settings.command_line import ROOT

CLI = [sys.executable, str(ROOT / "cli.py")]
REGIONS = ("WT", "TC", "ET")
VOLUMES_ML = ((0, 40), (40, 80), (80, 120), (120, 1000))


def score(checkpoint: Path, *options: str) -> list[dict[str, str]]:
    """Return the rows of ``per_case.csv`` that ``lightning test`` writes for a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*CLI, "test", "--ckpt_path", str(checkpoint), "--results_dir", folder, *options]
        subprocess.run(command, check=True)
        with (Path(folder) / "per_case.csv").open(newline="") as handle:
            return list(csv.DictReader(handle))


def by_volume(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Return mean whole-tumour Dice of the phantoms in every range of reference volume."""
    table = {}
    for low, high in VOLUMES_ML:
        dice = [float(row["dice/WT"]) for row in rows if low <= float(row["volume_ml/WT"]) < high]
        mean = round(float(np.mean(dice)), 4) if dice else None
        table[f"{low} to {high} ml"] = {"patients": len(dice), "dice_WT": mean}
    return table


def main() -> None:
    """Score every checkpoint and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=CHECKPOINT")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/phantom_transfer.json")
    arguments = parser.parse_args()
    earlier = json.loads(arguments.out.read_text())["runs"] if arguments.out.is_file() else {}
    results: dict[str, Any] = {}
    for entry in arguments.run:
        name, _, path = entry.partition("=")
        checkpoint = Path(path)
        real = score(checkpoint, "--data.root", str(arguments.real.resolve()))
        phantoms = score(checkpoint)
        manifest = checkpoint.resolve().parent.parent / "manifest.json"
        wall = json.loads(manifest.read_text()).get("wall_seconds") if manifest.is_file() else None
        results[name] = {
            "run": read_card(checkpoint)["run"],
            "training_minutes_of_last_stage": round(wall / 60, 1) if wall else None,
            "real_patients": {
                row["case_id"]: {key: round(float(row[f"dice/{key}"]), 4) for key in REGIONS}
                for row in real
            },
            "real_mean": {
                key: round(float(np.mean([float(row[f"dice/{key}"]) for row in real])), 4)
                for key in REGIONS
            },
            "phantom_mean": {
                key: round(float(np.mean([float(row[f"dice/{key}"]) for row in phantoms])), 4)
                for key in REGIONS
            },
            "phantom_dice_WT_by_volume": by_volume(phantoms),
        }
    content = {
        "runs": {**earlier, **results},
        "hardware": hardware(),
        "versions": versions(),
        "git": git_revision(),
    }
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
