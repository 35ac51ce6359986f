"""Rates and sizes of the 2D study's systems, chosen on validation phantoms alone.

    python -m speed.evidence.adapter_rates rates --place FOLDER [--jobs N] [--out FILE]
    python -m speed.evidence.adapter_rates rivals --place FOLDER [--jobs N] [--out FILE]
    python -m speed.evidence.adapter_rates sizes --place FOLDER [--jobs N] [--out FILE]

`rates` trains every SAM system by the rates below, one seed. `rivals` trains TransUNet and
Swin-Unet, by their own recipes and by `same_recipe`, three seeds. `sizes` trains, by the rate
chosen so, two sizes of each way to adapt the base, three seeds. All are trained on 28 exams of the
embedded phantom and scored on 10 other ones after each epoch; exams that a table of the 2D study
holds out are among neither. Repeated, it goes on where it was stopped. `rates` takes about two
hours on two cores; `rivals` and `sizes`, with two jobs, half an hour each.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
SAME_RECIPE = ("--config", "experiments/scale/same_recipe.yaml")
RIVALS: dict[tuple[str, ...], tuple[str, ...]] = {  # rates by recipe
    (): ("1.0e-2", "3.0e-2", "1.0e-1"),  # their own
    SAME_RECIPE: ("1.0e-3", "3.0e-4"),
}
SIZES = {  # those of the papers, and others
    "sam_low_rank": ("1.0e-3", "rank", ("4", "16")),
    "sam_bottleneck": ("1.0e-3", "ratio", ("0.25", "0.5")),
    "sam_adapter": ("3.0e-4", "first_blocks", ("6", "10")),
}


class Trial(NamedTuple):
    """One training: a system, its rate, options besides, and the seed."""

    system: str
    rate: str
    options: tuple[str, ...] = ()
    seed: int = 0


def paper_size(system: str) -> tuple[str, ...]:
    """Return the options of a system's size in its paper, at which the rates are compared."""
    if system not in SIZES:
        return ()
    _, name, sizes = SIZES[system]
    return f"--model.network.{name}", sizes[0]


TRIALS = {
    "rates": [
        *(
            Trial(system, rate, paper_size(system))
            for system, rates in RATES.items()
            for rate in rates
        ),
        Trial("sam_adapter", "1.0e-3", ("--model.network.first_blocks", "10")),
    ],
    "rivals": [
        Trial(system, rate, recipe, seed)
        for system in ("transunet", "swin_unet")
        for recipe, rates in RIVALS.items()
        for rate in rates
        for seed in range(3)
    ],
    "sizes": [
        Trial(system, rate, (f"--model.network.{name}", size), seed)
        for system, (rate, name, sizes) in SIZES.items()
        for size in sizes
        for seed in range(3)
    ],
}


def main() -> None:
    """Train what is left to do and write the validation scores of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=TRIALS)
    parser.add_argument("--place", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--out", type=Path, help="file of the record")
    arguments = parser.parse_args()
    arguments.place.mkdir(parents=True, exist_ok=True)
    split = arguments.place.resolve() / "split.json"
    split.write_text(json.dumps(parts()))
    with ThreadPoolExecutor(arguments.jobs) as lanes:
        score = partial(scored, arguments.place, split)
        trials = list(lanes.map(score, TRIALS[arguments.question]))
    out = arguments.out or ROOT / f"speed/results/adapter_{arguments.question}.json"
    write_record(out, {"selected_on": SELECTED_ON, "trials": trials})


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


def scored(place: Path, split: Path, trial: Trial) -> dict[str, Any]:
    """Return a trial with the validation Dice after every epoch of its training."""
    words = ["fit", "--config", f"experiments/{trial.system}.yaml"]
    words += ["--config", "experiments/scale/phantom_study_slices.yaml", *trial.options]
    words += ["--data.phantom_patients", str(EXAMS), "--data.split_file", str(split)]
    words += ["--model.optimizer.init_args.lr", trial.rate]
    words += ["--seed_everything", str(trial.seed), "--data.seed", str(trial.seed)]
    of_options = [option.rpartition("/")[2] for option in trial.options[1:]]
    name = "-".join([trial.system, trial.rate, *of_options, f"seed{trial.seed}"])
    runs = place.resolve() / f"runs-{name}"
    run_cli([*words, "--runs_dir", str(runs), "--resume"], place, name)
    (table,) = runs.glob("*/*/metrics.csv")
    dice = [round(row["val/dice/WT"], 4) for row in read_csv(table)]
    return {**trial._asdict(), "rate": float(trial.rate), "validation_dice": dice}


if __name__ == "__main__":
    main()
