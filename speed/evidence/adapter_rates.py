"""Rates and number of adapters of the 2D study's systems, chosen on validation phantoms alone.

    python -m speed.evidence.adapter_rates --place FOLDER [--out FILE]

Trains every system by the rates below on 28 exams of the embedded phantom and scores it on 10 other
ones after each epoch; exams that a table of the 2D study holds out are among neither. Repeated, it
goes on where it was stopped. About two hours on two cores.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from datamodules.splits import make_split, ordered
from evaluation.tables.per_case import read_csv
from speed.record import run_cli, write_record
from studies.settings.command_line import ROOT

EXAMS, HELD_OUT_OF = 60, (12, 40, 60)  # cohorts whose test exams appear in tables
SELECTED_ON, TRAINED_ON, ORDER = 10, 28, 5
RATES = {  # those of the papers, and others
    "sam_flair": ("1.0e-3", "3.0e-4"),
    "sam_early_fusion": ("1.0e-3", "3.0e-4"),
    "sam_low_rank": ("1.0e-3", "3.0e-4", "3.0e-3"),
    "sam_bottleneck": ("1.0e-3", "3.0e-4"),
    "sam_untrained_base": ("1.0e-3", "3.0e-4"),
    "sam_adapter": ("1.0e-3", "3.0e-4"),
}
OPTIONS: dict[str, tuple[str, str, list[str]]] = {
    f"{system}-{rate}": (system, rate, []) for system, rates in RATES.items() for rate in rates
} | {"sam_adapter-10blocks": ("sam_adapter", "1.0e-3", ["--model.network.first_blocks", "10"])}


def main() -> None:
    """Train what is left to do and write the validation scores of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--place", type=Path, required=True, help="folder of the runs")
    out = ROOT / "speed/results/adapter_rates.json"
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    arguments.place.mkdir(parents=True, exist_ok=True)
    split = arguments.place.resolve() / "split.json"
    split.write_text(json.dumps(parts()))
    trials = [trial(name, arguments.place, split) for name in OPTIONS]
    write_record(arguments.out, {"selected_on": SELECTED_ON, "trials": trials})


def parts() -> dict[str, list[str]]:
    """Return the exams of training, validation and test, none of them in two."""
    exams = [f"phantom-0-{number:04d}" for number in range(1, EXAMS + 1)]
    held_out = set()
    for cohort in HELD_OUT_OF:
        held_out |= set(make_split({exam: exam for exam in exams[:cohort]}).test)
    rest = ordered(set(exams) - held_out, ORDER)
    return {
        "train": sorted(rest[SELECTED_ON : SELECTED_ON + TRAINED_ON]),
        "val": sorted(rest[:SELECTED_ON]),
        "test": sorted(held_out),  # needed by a split, never tested
    }


def trial(name: str, place: Path, split: Path) -> dict[str, Any]:
    """Train one system by one rate; return its validation Dice after every epoch."""
    system, rate, options = OPTIONS[name]
    words = ["fit", "--config", f"experiments/{system}.yaml"]
    words += ["--config", "experiments/scale/phantom_study_slices.yaml"]
    words += ["--data.phantom_patients", str(EXAMS), "--data.split_file", str(split), *options]
    words += ["--model.optimizer.init_args.lr", rate]
    runs = place.resolve() / f"runs-{name}"
    run_cli([*words, "--runs_dir", str(runs), "--resume"], place, name)
    (table,) = runs.glob("*/*/metrics.csv")
    return {
        "system": system,
        "rate": float(rate),
        "options": options,
        "validation_dice": [round(row["val/dice/WT"], 4) for row in read_csv(table)],
    }


if __name__ == "__main__":
    main()
