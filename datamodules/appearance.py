"""The look of a cohort's images in a few numbers, and the patients that look unlike it.

Prepared images are z-scores, so their means and standard deviations say nothing. Compared are, in
every modality, percentiles inside the brain, the share of fine detail and of flat areas; between
modalities, their correlations; and the volume of the brain. A patient looks unlike a cohort where
a number lies outside everything seen in it by a margin. The margins were set on phantoms and on
eight real patients: `speed/results/unlike_cohort.json` has the rates.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.cases.case import PreparedCase
from datamodules.layouts.case_files import MODALITIES

Statistics = dict[str, Any]  # of a cohort, in plain types: part of a checkpoint's card

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
SLABS = 16  # sagittal slices that are read of an image; they are contiguous in its file
MOST_PATIENTS = 100  # that a cohort is described by, evenly spread over its names
SPREADS = 1.0  # margin around a cohort's range in its robust standard deviations
FEW = 4.0  # the margin is larger by this over the number of patients, as few show a small range
NAMES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
DISTANCE = "images/distance"  # the mean of all numbers' distances from the cohort's medians
FARTHEST = 3.0  # that one number counts in this mean


@dataclass(frozen=True)
class Number:
    """A kind of number, and the words for a patient in whom it is unusual.

    Args:
        tolerance: margin that is always left around a cohort's range, in units of the number.
        low: what is wrong below the range; empty: nothing is.
        high: what is wrong above the range; empty: nothing is.
        name: name of the number, for the brackets.
        form: format of its value.
    """

    tolerance: float
    low: str
    high: str
    name: str
    form: str = ".1f"

    def margin(self, spread: float, patients: int) -> float:
        """Return how far outside a cohort's range a patient may lie."""
        return max(self.tolerance, SPREADS * spread) * (1 + FEW / patients)


_DARK_TAIL = ("has a heavier dark tail", "has a lighter dark tail")
_MIDDLE = ("has darker tissue", "has brighter tissue")
_BRIGHT_TAIL = ("has a lighter bright tail", "has a heavier bright tail")
NUMBERS = {
    "p1": Number(1.0, *_DARK_TAIL, "1st percentile"),
    "p5": Number(0.35, *_DARK_TAIL, "5th percentile"),
    "p25": Number(0.25, *_MIDDLE, "25th percentile"),
    "p50": Number(0.25, *_MIDDLE, "median"),
    "p75": Number(0.25, *_MIDDLE, "75th percentile"),
    "p95": Number(0.35, *_BRIGHT_TAIL, "95th percentile"),
    "p99": Number(0.8, *_BRIGHT_TAIL, "99th percentile"),
    "fine": Number(0.1, "is smoother", "is noisier", "fine detail, share of variance", ".2f"),
    "flat": Number(0.1, "", "has flat areas", "equal neighbours, share", ".2f"),
    "brain": Number(200.0, "is smaller", "is larger", "volume in ml", ".0f"),
    "alike": Number(0.35, "are less alike", "are more alike", "correlation", ".2f"),
    # T1 and T1ce are less like T2 than FLAIR is, in phantoms and in patients: fluid and oedema.
    "swapped": Number(0.1, "", "look swapped", "likeness to T2, difference", ".2f"),
    "distance": Number(0.2, "", "differ in many numbers", "mean distance", ".2f"),
}


def look(image: npt.NDArray[Any], brain_ml: float, absent: Collection[str]) -> dict[str, float]:
    """Return the numbers of a prepared image by name.

    Args:
        image: z-scores (4, R, A, S), 0 outside the brain.
        brain_ml: volume of the brain in ml.
        absent: modalities that were filled with the background, which are left out.
    """
    places = np.linspace(0, image.shape[1] - 1, SLABS + 2).round().astype(int)[1:-1]
    slabs = np.asarray(image[:, np.unique(places)], np.float32)  # (4, K, A, S)
    inside = (slabs != 0).any(0)
    neighbours = inside[:, 1:] & inside[:, :-1]
    found, values = {"brain/brain": float(brain_ml)}, {}
    for modality, slab in zip(MODALITIES, slabs, strict=True):
        if modality in absent:
            continue
        voxels = slab[inside]
        steps = (slab[:, 1:] - slab[:, :-1])[neighbours]
        values[modality] = voxels
        marks = np.percentile(voxels, PERCENTILES)
        found |= {f"{modality}/p{p}": float(m) for p, m in zip(PERCENTILES, marks, strict=True)}
        variance = float(voxels.var(dtype=np.float64))
        # half the mean square of a step is the variance of white noise
        fine = float((steps**2).mean(dtype=np.float64)) / 2
        found[f"{modality}/fine"] = fine / variance if variance else 0.0
        found[f"{modality}/flat"] = float((steps == 0).mean())
    alike = {
        pair: _correlation(values[pair[0]], values[pair[1]]) for pair in combinations(values, 2)
    }
    found |= {f"{one}+{other}/alike": value for (one, other), value in alike.items()}
    for modality in ("t1", "t1ce"):
        if {(modality, "t2"), ("t2", "flair")} <= alike.keys():
            difference = alike[modality, "t2"] - alike["t2", "flair"]
            found[f"{modality}+flair/swapped"] = difference
    return found


def look_of(case: PreparedCase) -> dict[str, float]:
    """Return the numbers of a prepared case by name."""
    return look(case.image, case.brain_ml, {*case.missing, *case.dropped})


def cohort_statistics(cases: Iterable[PreparedCase]) -> Statistics:
    """Return the statistics of a cohort's images, over at most `MOST_PATIENTS` of them."""
    ordered = sorted(cases, key=lambda case: case.case_id)
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_PATIENTS)).round().astype(int)
    return summarise([look_of(ordered[place]) for place in places])


def summarise(looks: Sequence[Mapping[str, float]]) -> Statistics:
    """Return median, spread and range of every number over patients, as plain types.

    Args:
        looks: the numbers of each patient, as `look` returns them.
    """
    numbers = _described(looks)
    distances = [{DISTANCE: _distance(one, numbers)} for one in looks]
    return {"patients": len(looks), "numbers": numbers | _described(distances)}


def _described(looks: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, spread and range of every number over patients."""
    numbers = {}
    for name in dict.fromkeys(name for one in looks for name in one):
        values = np.array([one[name] for one in looks if name in one])
        median = float(np.median(values))
        described = {
            "median": median,
            # the standard deviation of a normal distribution with this median deviation
            "spread": 1.4826 * float(np.median(np.abs(values - median))),
            "low": float(values.min()),
            "high": float(values.max()),
        }
        numbers[name] = {key: round(value, 4) for key, value in described.items()}
    return numbers


def unlike(found: Mapping[str, float], cohort: Statistics) -> list[str]:
    """Return in what a patient looks unlike a cohort, the most unusual first; empty if in nothing.

    Args:
        found: the patient's numbers, as `look` returns them.
        cohort: statistics of the cohort, as `summarise` returns them.
    """
    unusual: list[tuple[float, str]] = []
    numbers = cohort["numbers"]
    known = {name: value for name, value in found.items() if name in numbers}  # in the cohort too
    for name, value in {**known, DISTANCE: _distance(known, numbers)}.items():
        seen = numbers[name]
        subject, _, kind = name.partition("/")
        number = NUMBERS[kind]
        margin = number.margin(seen["spread"], cohort["patients"])
        below, above = seen["low"] - value, value - seen["high"]
        what, distance = (number.low, below) if below > above else (number.high, above)
        if what and distance > margin:
            training = f"training {seen['low']:{number.form}} to {seen['high']:{number.form}}"
            stated = f"({number.name} {value:{number.form}}, {training})"
            unusual.append((distance / margin, f"{_subject(subject)} {what} {stated}"))
    return [sentence for _, sentence in sorted(unusual, key=lambda one: -one[0])]


def _distance(found: Mapping[str, float], numbers: Mapping[str, Mapping[str, float]]) -> float:
    """Return the mean distance of a patient's numbers from the medians of a cohort.

    Each counts in spreads of the cohort, or in half tolerances where these are larger.
    """
    distances = []
    for name, value in found.items():
        seen, tolerance = numbers[name], NUMBERS[name.partition("/")[2]].tolerance
        scale = max(seen["spread"], tolerance / 2)
        distances.append(min(abs(value - seen["median"]) / scale, FARTHEST))
    return float(np.mean(distances)) if distances else 0.0


def _subject(name: str) -> str:
    """Return what a number is about in words: ``t1+flair`` is `T1 and FLAIR`."""
    return " and ".join(NAMES.get(part, f"the {part}") for part in name.split("+"))


def _correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the correlation of two arrays; 0 where one of them is constant."""
    a, b = one - one.mean(), other - other.mean()
    size = float(np.sqrt((a**2).mean(dtype=np.float64) * (b**2).mean(dtype=np.float64)))
    return float((a * b).mean(dtype=np.float64)) / size if size else 0.0
