"""What the pieces of the phantom and randomisation on the fly are good for: a 2 x 2 experiment.

    python -m speed.data.phantom_pieces --real DIR --folder RUNS [--seeds 0 1]

Phantoms with the pieces of `datamodules.phantom.variety` or without any, augmentation randomised
or not: every run trains `experiments/dynunet.yaml` and is tested on real patients and on one cohort
of phantoms that have the pieces. Runs that are in the table already are not repeated. Give the
patients that were set apart for development, never those of the final test.

The pieces are what an experiment over sixteen of them left, a Hadamard design of seven groups and
eight runs (Plackett and Burman, Biometrika 1946, doi:10.1093/biomet/33.4.305) at the revision that
`speed/results/phantom_sixteen_pieces.json` names.
"""

import argparse
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.phantom.simulation import PHANTOM_VERSION, generate_cohort
from datamodules.phantom.variety import PIECES
from speed.data.phantom_transfer import means, score
from speed.record import CLI, write_record
from studies.settings.command_line import ROOT

FACTORS = ("pieces", "randomised")
PATIENTS, HELD_OUT, HELD_OUT_SEED, SPACING = 60, 16, 4242, 2.0
EPOCHS = "6"  # 450 steps


def measure(
    pieces: bool, randomised: bool, seed: int, folder: Path, real: Path
) -> dict[str, float]:
    """Generate, train and test one run; return mean Dice by region and kind of patient."""
    cohort, held_out = folder / f"phantoms-{'with' if pieces else 'without'}", folder / "held-out"
    generate_cohort(cohort, PATIENTS, seed=0, spacing=SPACING, taken=PIECES if pieces else ())
    # Names of another year: a checkpoint takes equal names for its own training patients.
    generate_cohort(held_out, HELD_OUT, HELD_OUT_SEED, "brats2018", SPACING)
    place = folder / f"run-{int(pieces)}{int(randomised)}-{seed}"
    place.mkdir(exist_ok=True)
    words = ["--config", str(ROOT / "experiments/dynunet.yaml"), "--data.root", str(cohort)]
    words += ["--data.augmentation", "randomised" if randomised else "true"]
    words += ["--trainer.max_epochs", EPOCHS, "--seed_everything", str(seed), "--resume"]
    subprocess.run([*CLI, "fit", *words], check=True, cwd=place)
    (checkpoint,) = place.glob("runs/dynunet/*/checkpoints/best.ckpt")
    found: dict[str, float] = {}
    for kind, root in (("real", real), ("phantom", held_out)):
        rows = score(checkpoint, "--data.root", str(root.resolve()))
        found |= {f"{kind} {region}": value for region, value in means(rows).items()}
    return found


def effects(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each factor the mean Dice of runs with it less that of runs without it."""
    table: dict[str, dict[str, float]] = {}
    for factor in FACTORS:
        with_it, without = ([run for run in runs if run[factor] is on] for on in (True, False))
        if with_it and without:
            table[factor] = {
                name: round(float(np.mean([r[name] for r in with_it])
                                  - np.mean([r[name] for r in without])), 4)
                for name in runs[0] if name not in (*FACTORS, "seed")
            }  # fmt: skip
    return table


def main() -> None:
    """Do the runs of every seed; write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="of phantoms and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/phantom_pieces.json")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    runs = json.loads(given.out.read_text())["runs"] if given.out.is_file() else []
    done = {(run["pieces"], run["randomised"], run["seed"]) for run in runs}
    for seed, *factors in itertools.product(given.seeds, (False, True), (False, True)):
        pieces, randomised = factors
        if (pieces, randomised, seed) in done:
            continue
        found = measure(pieces, randomised, seed, given.folder.resolve(), given.real)
        runs.append({"pieces": pieces, "randomised": randomised, "seed": seed, **found})
        content = {
            "phantom_version": PHANTOM_VERSION,
            "real_patients": sorted(path.name for path in given.real.iterdir()),
            "runs": runs,
            "effects": effects(runs),
        }
        write_record(given.out, content)
        print(runs[-1], flush=True)
    print(json.dumps(effects(runs), indent=2))


if __name__ == "__main__":
    main()
