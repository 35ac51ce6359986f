"""Dual, early and late fusion of the same backbones on held-out phantoms, three seeds.

    python -m speed.networks.fusion_heads --place FOLDER [--seeds 0 1 2] [--out FOLDER]

A benchmark in FOLDER: 200 phantoms, 40 of them held out, every other setting that of the experiment
files. Stopped, it goes on from the last epoch. A seed that is done is a file in --out, and all that
lie there are judged. What has to hold was written down before the first run, and nothing was tuned
on the held-out phantoms:

1. dual fusion's mean Dice over the regions is at least that of late and of early fusion;
2. no region is worse beyond chance (two-sided Wilcoxon over patients, corrected after Holm over
   regions and rivals, seeds averaged within a patient);
3. its calibration error, the mean over regions and seeds, is at most 1.5 times late fusion's;
4. no region dies in any seed: a mean Dice below 0.1 over the patients who have it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evaluation.metrics.calibration import Reliability
from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import compare
from evaluation.tables.per_case import read_csv
from speed.record import CLI, write_record
from studies.settings.command_line import ROOT

REGIONS = ("WT", "TC", "ET")
SYSTEMS = ("late_fusion", "early_fusion", "fusion")
PHANTOMS = 200
SEEDS = (0, 1, 2)
KEPT = ("case_id", "dice/", "hd95/", "volume_ml/")
DEAD, WORST_CALIBRATION, CHANCE = 0.1, 1.5, 0.05
FILE = {
    "name": "fusion_heads",
    "reference": "experiments/fusion.yaml",
    "options": {"data.phantom_patients": PHANTOMS},
    "experiments": [f"experiments/{name}.yaml" for name in SYSTEMS],
    "tables": [{"title": "Heads", "metrics": ["dice", "hd95"], "regions": list(REGIONS)}],
}

Rows = list[dict[str, Any]]


def results(place: Path, seed: int) -> dict[str, Any]:
    """Return of every system with one seed its run, its scores a patient and its calibration."""
    plan = json.loads((place / "benchmarks" / str(FILE["name"]) / "plan.json").read_text())
    found = {}
    for cell in plan["cells"]:
        if cell["seed"] == seed:
            rows = read_csv(place / cell["per_case"])
            kept = [{key: row[key] for key in row if key.startswith(KEPT)} for row in rows]
            errors = calibration_error(place / cell["folder"])
            found[cell["system"]] = {
                "run": Path(cell["folder"]).name,
                "calibration_error": errors,
                "patients": kept,
            }
    return found


def calibration_error(folder: Path) -> dict[str, float]:
    """Return the expected calibration error of every region of a run."""
    bins = read_csv(folder / "calibration.csv")
    return {
        region: Reliability.from_rows([row for row in bins if row["region"] == region]).ece
        for region in REGIONS
    }


def lowest_over_seeds(rows: Rows) -> dict[str, float]:
    """Return of every region the lowest mean Dice of a run, over patients who have the region."""
    lowest = {}
    for region in REGIONS:
        by_run: dict[str, list[float]] = {}
        for row in rows:
            if row[f"volume_ml/{region}"] > 0:
                by_run.setdefault(row["run"], []).append(row[f"dice/{region}"])
        lowest[region] = round(min(float(np.mean(values)) for values in by_run.values()), 4)
    return lowest


def judge(seeds: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures over seeds, and whether each of the four statements holds."""
    rows: dict[str, Rows] = {
        name: [
            {**row, "run": one[name]["run"]}
            for one in seeds.values()
            for row in one[name]["patients"]
        ]
        for name in SYSTEMS
    }
    columns = [ScoreColumn.parse(f"dice/{region}") for region in REGIONS]
    dice = {
        name: {
            region: round(float(np.mean([row[f"dice/{region}"] for row in rows[name]])), 4)
            for region in REGIONS
        }
        for name in SYSTEMS
    }
    means = {name: float(np.mean(list(values.values()))) for name, values in dice.items()}
    errors = {
        name: {
            region: round(
                float(np.mean([one[name]["calibration_error"][region] for one in seeds.values()])),
                4,
            )
            for region in REGIONS
        }
        for name in SYSTEMS
    }
    error = {name: float(np.mean(list(values.values()))) for name, values in errors.items()}
    lowest = {name: lowest_over_seeds(rows[name]) for name in SYSTEMS}
    tests: list[dict[str, Any]] = [
        {
            "rival": one.system,
            "region": one.column.key,
            # of the rival minus dual fusion, the median over patients
            "difference": round(one.difference, 4),
            "p_holm": round(one.p_holm, 5),
        }
        for one in compare(rows, columns, "fusion")
    ]
    worse = [one for one in tests if one["difference"] > 0 and one["p_holm"] < CHANCE]
    return {
        "seeds": sorted(seeds),
        "patients": len({row["case_id"] for row in rows["fusion"]}),
        "dice": dice,
        "mean_dice": {name: round(value, 4) for name, value in means.items()},
        "calibration_error": errors,
        "lowest_dice_of_a_seed": lowest,
        "tests": tests,
        "holds": {
            "mean Dice at least that of late and early fusion": means["fusion"]
            >= max(means["late_fusion"], means["early_fusion"]),
            "no region worse beyond chance": not worse,
            "calibration error at most 1.5 times late fusion's": error["fusion"]
            <= WORST_CALIBRATION * error["late_fusion"],
            "no region dies in a seed": min(lowest["fusion"].values()) >= DEAD,
        },
    }


def main() -> None:
    """Train and test what is left to do, seed by seed, then judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", type=Path, required=True, help="folder of the benchmark")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/fusion_heads")
    options = parser.parse_args()
    options.place.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.place / "fusion_heads.yaml"
    file.write_text(yaml.safe_dump(FILE, sort_keys=False))
    for seed in options.seeds:
        command = [*CLI, "benchmark", file.name, "--seeds", str(seed)]
        status = subprocess.run(command, cwd=options.place, check=False).returncode
        if status:
            sys.exit(f"the benchmark ended with status {status}: mend the cause, then repeat")
        write_record(options.out / f"seed-{seed}.json", {"systems": results(options.place, seed)})
    files = sorted(options.out.glob("seed-*.json"))
    seeds = {int(one.stem[5:]): json.loads(one.read_text())["systems"] for one in files}
    found = judge(seeds)
    for statement, holds in found["holds"].items():
        print(f"{'yes' if holds else 'NO '}  {statement}")
    print(json.dumps({"dice": found["dice"], "calibration": found["calibration_error"]}, indent=2))
    write_record(options.out / "all.json", found)


if __name__ == "__main__":
    main()
