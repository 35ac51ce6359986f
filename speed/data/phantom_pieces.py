"""What each piece of the phantom is good for: a designed experiment.

    python -m speed.data.phantom_pieces --real DIR --folder RUNS [--seeds 0 1]

Pieces of `datamodules.phantom.variety` are taken in or left out in groups by a Hadamard design of
eight runs (Plackett and Burman, Biometrika 1946, doi:10.1093/biomet/33.4.305), so that the effect
of a group is the difference between four runs and the four others. Every run generates its
phantoms, trains DynUNet by a short recipe and is tested on real patients and on one cohort of
phantoms that holds all pieces. Runs that are in the folder already are not repeated.

Give the patients that were set apart for development, never those of the final test.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from datamodules.phantom.simulation import PHANTOM_VERSION, generate_cohort
from datamodules.phantom.variety import PIECES
from speed.data.phantom_transfer import CLI, REGIONS, score
from studies.runs.environment import git_revision, hardware
from studies.settings.command_line import ROOT

GROUPS = {
    "anatomy": ("deep_grey", "surface", "dark_edge"),
    "contrast": ("regions", "grey_contrast", "waves"),
    "bright_white": ("bright_white",),
    "scanner": ("shading", "low_noise"),
    "enhancement": ("non_enhancing", "partial_rim"),
    "core": ("small_core", "pale_core", "faint"),
    "place": ("sites", "vessels"),
}
PATIENTS, HELD_OUT, HELD_OUT_SEED, SPACING = 60, 16, 4242, 2.0
RUNS = 8


def design() -> list[dict[str, bool]]:
    """Return the eight runs: which groups are taken in; the first takes in all."""
    matrix = scipy.linalg.hadamard(RUNS)[:, 1:]
    return [dict(zip(GROUPS, (row > 0).tolist(), strict=True)) for row in matrix]


def taken_in(run: dict[str, bool]) -> list[str]:
    """Return the pieces that a run takes in."""
    return [piece for group, taken in run.items() if taken for piece in GROUPS[group]]


def measure(number: int, seed: int, folder: Path, real: Path) -> dict[str, float]:
    """Generate, train and test one run; return mean Dice by region and kind of patient."""
    cohort, held_out = folder / f"phantoms-{number}", folder / "held-out"
    generate_cohort(cohort, PATIENTS, seed=0, spacing=SPACING, taken=taken_in(design()[number]))
    # Names of another year: a checkpoint takes equal names for its own training patients.
    generate_cohort(held_out, HELD_OUT, HELD_OUT_SEED, "brats2018", SPACING, taken=tuple(PIECES))
    overlays = ("experiments/dynunet.yaml", "experiments/scale/recipe_short.yaml")
    words = [word for path in overlays for word in ("--config", str(ROOT / path))]
    place = folder / f"run-{number}-{seed}"
    place.mkdir(exist_ok=True)
    options = ["--data.root", str(cohort), "--seed_everything", str(seed), "--resume"]
    subprocess.run([*CLI, "fit", *words, *options], check=True, cwd=place)
    (checkpoint,) = place.glob("runs/dynunet/*/checkpoints/best.ckpt")
    found: dict[str, float] = {}
    for kind, root in (("real", real), ("phantom", held_out)):
        rows = score(checkpoint, "--data.root", str(root.resolve()))
        for region in REGIONS:
            mean = np.mean([float(row[f"dice/{region}"]) for row in rows])
            found[f"{kind} {region}"] = round(float(mean), 4)
    return found


def effects(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return for each group the mean Dice of runs with it less that of runs without it."""
    runs = design()
    table: dict[str, dict[str, float]] = {}
    for group in GROUPS:
        table[group] = {}
        for name in next(iter(results.values())):
            sides: dict[bool, list[float]] = {True: [], False: []}
            for key, found in results.items():
                sides[runs[int(key.split(" ")[0])][group]].append(found[name])
            if all(sides.values()):
                table[group][name] = round(float(np.mean(sides[True]) - np.mean(sides[False])), 4)
    return table


def main() -> None:
    """Run the design, write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="of phantoms and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/phantom_pieces.json")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, float]] = {}
    if given.out.is_file():
        results = json.loads(given.out.read_text())["runs"]
    for seed in given.seeds:
        for number in range(RUNS):
            key = f"{number} seed {seed}"
            if key not in results:
                results[key] = measure(number, seed, given.folder.resolve(), given.real)
            content: dict[str, Any] = {
                "phantom_version": PHANTOM_VERSION,
                "real_patients": sorted(path.name for path in given.real.iterdir()),
                "groups": GROUPS,
                "design": design(),
                "runs": results,
                "effects": effects(results),
                "hardware": hardware(),
                "git": git_revision(),
            }
            given.out.write_text(json.dumps(content, indent=2) + "\n")
            print(key, results[key], flush=True)
    print(json.dumps(effects(results), indent=2), file=sys.stdout)


if __name__ == "__main__":
    main()
