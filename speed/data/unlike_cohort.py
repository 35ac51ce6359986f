"""Rates of patients that look unlike a checkpoint's training patients, for known inputs.

    python -m speed.data.unlike_cohort --real DIR [--real DIR ...] [--out FILE]

The statistics are those of a training on phantoms (28 of 40 at 2 mm). Compared with them are
phantoms of other seeds and the real patients, as they are and altered: two modalities swapped, one
inverted, constant, noise or blurred, a body that is no brain, and a head with skull and scalp. The
alterations act on prepared images: a z-score of each modality by itself makes that the same as
altering the files, up to the resampling of noise.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from datamodules import BraTSPatchDataModule
from datamodules.appearance import (
    CLOSER,
    FAR,
    FAR_ALIKE,
    FEW,
    NUMBERS,
    SHRINKAGE,
    SPREADS,
    cohort_statistics,
    look,
    unlike,
)
from datamodules.layouts.case_files import MODALITIES
from speed.record import write_record
from studies.settings.command_line import ROOT

SPACING = 2.0  # mm, of the experiments' embedded scale
SHELL_MM = 14.0  # of skull and scalp around the brain
Image = np.ndarray  # z-scores (4, R, A, S), 0 outside the brain
Alter = Callable[[Image, np.random.Generator], Image]


def scored(values: Image, inside: np.ndarray) -> Image:
    """Return values (4, *S) as z-scores inside a mask, clipped as the preparation clips them."""
    made = np.zeros_like(values)
    for one, out in zip(values, made, strict=True):
        voxels = one[inside]
        voxels = np.clip(voxels, *np.percentile(voxels, (0.5, 99.5)))
        out[inside] = (voxels - voxels.mean()) / (voxels.std() or 1.0)
    return made


def only(index: int, change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Alter:
    """Return an alteration of one modality inside the brain."""

    def alter(image: Image, rng: np.random.Generator) -> Image:
        inside = (image != 0).any(0)
        changed = image.copy()
        changed[index] = np.where(inside, change(image[index], rng), 0)
        return scored(changed, inside)

    return alter


def body(image: Image, rng: np.random.Generator) -> Image:
    """Return an ellipsoid of smooth texture, another one in every modality."""
    axes = [np.linspace(-1, 1, size) for size in image.shape[1:]]
    radius = np.sum([axis**2 for axis in np.meshgrid(*axes, indexing="ij")], axis=0)
    texture = [ndimage.gaussian_filter(rng.normal(size=image.shape[1:]), 3) for _ in image]
    return scored(np.stack(texture), radius < 1)


def head(image: Image, rng: np.random.Generator) -> Image:
    """Return the brain in dark skull and a scalp that is bright on T1 and T1ce."""
    edge = round(SHELL_MM / SPACING)
    padded = np.pad(image, [(0, 0), *[(edge, edge)] * 3])
    brain = (padded != 0).any(0)
    distance = ndimage.distance_transform_edt(~brain) * SPACING
    scalp = (distance > SHELL_MM / 2) & (distance <= SHELL_MM)
    bright = dict(zip(MODALITIES, (2.5, 2.5, 1.0, 0.5), strict=True))
    for modality, one in zip(MODALITIES, padded, strict=True):
        one[(distance > 0) & (distance <= SHELL_MM / 2)] = -2.5
        one[scalp] = bright[modality] + 0.3 * rng.normal(size=int(scalp.sum()))
    return scored(padded, distance <= SHELL_MM)


def swap(one: int, other: int) -> Alter:
    """Return the exchange of two modalities."""
    order = list(range(len(MODALITIES)))
    order[one], order[other] = other, one
    return lambda image, rng: image[order]


def alterations() -> Iterator[tuple[str, Alter]]:
    """Yield every alteration with its name."""
    yield "as they are", lambda image, rng: image
    for one, other in combinations(range(len(MODALITIES)), 2):
        yield f"{MODALITIES[one]} and {MODALITIES[other]} swapped", swap(one, other)
    for index, modality in enumerate(MODALITIES):
        yield f"{modality} inverted", only(index, lambda values, rng: -values)
        yield f"{modality} constant", only(index, lambda values, rng: np.ones_like(values))
        yield f"{modality} noise", only(index, lambda values, rng: rng.normal(size=values.shape))
    yield "all inverted", lambda image, rng: -image
    yield "no brain", body
    yield "skull and scalp", head


def rates(cases: list[Any], cohort: dict[str, Any]) -> dict[str, Any]:
    """Return how many of some patients look unlike a cohort, for every alteration."""
    found: dict[str, Any] = {}
    for name, alter in alterations():
        findings = {}
        for number, case in enumerate(cases):
            image = np.asarray(case.image, np.float32)
            altered = alter(image, np.random.default_rng(number))
            voxels = np.count_nonzero((altered != 0).any(0)) / np.count_nonzero((image != 0).any(0))
            findings[case.case_id] = unlike(look(altered, case.brain_ml * voxels, ()), cohort)
        named = {case_id: sentences for case_id, sentences in findings.items() if sentences}
        what = Counter(sentences[0].partition(" (")[0] for sentences in named.values())
        found[name] = {
            "unlike": len(named),
            "of": len(cases),
            "foremost": dict(what.most_common(3)),
        }
        if name == "as they are":
            found[name]["sentences"] = named
    return found


def main() -> None:
    """Measure the rates and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--patients", type=int, default=40, help="phantoms of each cohort")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of other phantoms")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/unlike_cohort.json")
    arguments = parser.parse_args()

    def phantoms(seed: int) -> BraTSPatchDataModule:
        settings = {"phantom_patients": arguments.patients, "phantom_seed": seed}
        return BraTSPatchDataModule(spacing=SPACING, **settings)

    trained = phantoms(0)
    cohort = cohort_statistics(trained.cases[name] for name in trained.split.train)
    others = [case for seed in arguments.seeds for case in phantoms(seed).cases.values()]
    real = [
        case
        for root in arguments.real
        for case in BraTSPatchDataModule(root=str(root), spacing=SPACING).cases.values()
    ]
    groups = {"phantoms of other seeds": others, "real patients": real}
    tables = {name: rates(cases, cohort) for name, cases in groups.items() if cases}
    content = {
        "what": __doc__.partition("\n")[0],
        "training_phantoms": cohort["patients"],
        "margins": {
            "spreads": SPREADS,
            "few": FEW,
            "shrinkage": SHRINKAGE,
            "far": FAR,
            "far alike": FAR_ALIKE,
            "closer": CLOSER,
            **{name: number.tolerance for name, number in NUMBERS.items()},
        },
        "rates": tables,
    }
    write_record(arguments.out, content)
    for name, table in tables.items():
        print(name)
        for alteration, one in table.items():
            print(f"  {alteration}: {one['unlike']} of {one['of']} look unlike")


if __name__ == "__main__":
    main()
