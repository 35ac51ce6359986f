"""The look of a cohort's images in a few numbers, and the patients that look unlike it.

Prepared images are z-scores, so their means and standard deviations say nothing. Compared are, in
every modality, percentiles inside the brain, the share of fine detail and of flat areas; between
modalities, their correlations; and the volume of the brain. A patient looks unlike a cohort where

- a number lies outside everything seen in it by a margin,
- two modalities look swapped: exchanged, the patient would lie closer to the cohort,
- all numbers together, or the correlations between modalities, lie far from the cohort.

Distances are squared Mahalanobis distances over the count of numbers. Margins and thresholds were
set on phantoms and on eight real patients: `speed/results/unlike_cohort.json` has the rates.
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
FARTHEST = 6.0  # scaled deviation of a number that counts in distances and correlations
SHRINKAGE = 0.5  # share of the identity in the correlations between numbers
FAR = 3.0  # distance of all numbers from a cohort that is unusual
FAR_ALIKE = 5.5  # distance of the correlations between modalities that is unusual
CLOSER = 0.15  # an exchange that lowers the logarithm of the distances by more is a swap
LOOK_ALIKE = ("t1", "t1ce")  # too much to tell an exchange of the two
DESCRIBED = ("median", "spread", "low", "high")  # of every number over a cohort
PAIRS = {f"{one}+{other}/alike" for one, other in combinations(MODALITIES, 2)}


@dataclass(frozen=True)
class Number:
    """A statistic of an image, and the words for a patient outside its range.

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
        return max(self.tolerance, SPREADS * spread) * _widened(patients)


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
    return found | {f"{one}+{other}/alike": value for (one, other), value in alike.items()}


def look_of(case: PreparedCase) -> dict[str, float]:
    """Return the numbers of a prepared case by name."""
    return look(case.image, case.brain_ml, {*case.missing, *case.dropped})


def cohort_statistics(cases: Iterable[PreparedCase]) -> Statistics:
    """Return the statistics of a cohort's images, over at most `MOST_PATIENTS` of them."""
    ordered = sorted(cases, key=lambda case: case.case_id)
    places = np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_PATIENTS)).round().astype(int)
    return summarise([look_of(ordered[place]) for place in places])


def summarise(looks: Sequence[Mapping[str, float]]) -> Statistics:
    """Return spread and correlations of the numbers over patients, as plain types.

    Args:
        looks: the numbers of each patient, as `look` returns them.

    Returns:
        The number of patients; of every number median, spread and range; and in the order of the
        numbers the rows of their correlations, over the patients who have all of them.
    """
    numbers: dict[str, dict[str, float]] = {}
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
    whole = [one for one in looks if len(one) == len(numbers)] or [{}]
    scaled = np.array([[_scaled(one, numbers, name) for name in numbers] for one in whole])
    together = (scaled.T @ scaled / len(whole)).round(3).tolist()
    return {"patients": len(looks), "numbers": numbers, "together": together}


def is_complete(statistics: Any) -> bool:
    """Whether a value read from a file has all that `unlike` reads of a cohort's statistics."""
    numbers = statistics.get("numbers") if isinstance(statistics, Mapping) else None
    if not isinstance(numbers, Mapping) or not numbers:
        return False
    patients, together = statistics.get("patients"), statistics.get("together", [])
    described = [one for one in numbers.values() if isinstance(one, Mapping)]
    whole = [one for one in described if all(isinstance(one.get(key), float) for key in DESCRIBED)]
    return (
        isinstance(patients, int)
        and patients > 0
        and len(whole) == len(numbers)
        and isinstance(together, list)
        and [np.size(row) for row in together] in ([], [len(numbers)] * len(numbers))
    )


def unlike(found: Mapping[str, float], cohort: Statistics) -> list[str]:
    """Return in what a patient looks unlike a cohort; empty if in nothing.

    The most unusual comes first, and last that many numbers differ, as it says least.

    Args:
        found: the patient's numbers, as `look` returns them.
        cohort: statistics of the cohort, as `summarise` returns them.
    """
    unusual: list[tuple[float, str]] = []
    numbers = cohort["numbers"]
    for name, value in found.items():
        if name not in numbers:
            continue
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
    last = []
    if "together" in cohort:  # statistics of earlier versions lack it
        every, alike = _distances(found, cohort)
        wider = _widened(cohort["patients"])
        usual, usual_alike = FAR * wider, FAR_ALIKE * wider
        unusual += _swapped(found, cohort, (every, alike))
        if alike > usual_alike and found.keys() >= PAIRS:
            stated = f"(correlations, distance {alike:.1f}, usual up to {usual_alike:.1f})"
            unusual.append((alike / usual_alike, f"the modalities do not go together {stated}"))
        if every > usual:
            stated = f"(distance {every:.1f}, usual up to {usual:.1f})"
            last = [f"the images differ in many numbers {stated}"]
    return [sentence for _, sentence in sorted(unusual, key=lambda one: -one[0])] + last


def _widened(patients: int) -> float:
    """Return the factor of margins and thresholds for the number of patients behind them."""
    return 1 + FEW / patients


def _swapped(
    found: Mapping[str, float], cohort: Statistics, before: tuple[float, float]
) -> list[tuple[float, str]]:
    """Return the pair of modalities whose exchange brings a patient closest, if close enough.

    Args:
        found: the patient's numbers.
        cohort: statistics of the cohort.
        before: the patient's distances as the modalities are named.
    """
    given = [modality for modality in MODALITIES if f"{modality}/p50" in found]
    if len(given) < len(MODALITIES) - 1:
        return []  # two modalities are as much alike before an exchange as after it
    exchanged = {
        pair: _distances(_exchanged(found, *pair), cohort)
        for pair in combinations(given, 2)
        if pair != LOOK_ALIKE
    }
    gains = {
        pair: float(np.log1p(before).mean() - np.log1p(after).mean())
        for pair, after in exchanged.items()
    }
    pair = max(gains, key=lambda pair: gains[pair])
    threshold = CLOSER * _widened(cohort["patients"])
    if gains[pair] <= threshold:
        return []
    stated = f"(distance from training {before[0]:.1f}, exchanged {exchanged[pair][0]:.1f})"
    return [(gains[pair] / threshold, f"{_subject('+'.join(pair))} look swapped {stated}")]


def _exchanged(found: Mapping[str, float], one: str, other: str) -> dict[str, float]:
    """Return a patient's numbers as they are where two modalities are exchanged."""
    renamed = {one: other, other: one}

    def name(old: str) -> str:
        subject, _, kind = old.partition("/")
        parts = [renamed.get(part, part) for part in subject.split("+")]
        if len(parts) > 1:
            parts.sort(key=MODALITIES.index)
        return f"{'+'.join(parts)}/{kind}"

    return {name(old): value for old, value in found.items()}


def _distances(found: Mapping[str, float], cohort: Statistics) -> tuple[float, float]:
    """Return a patient's distance from a cohort in all numbers, and in the correlations alone.

    Each is the squared Mahalanobis distance over the count of its numbers. Correlations of the
    numbers are shrunk towards independence, as a cohort may have fewer patients than numbers.
    """
    numbers = cohort["numbers"]
    names = [name for name in numbers if name in found]
    places = {name: place for place, name in enumerate(numbers)}
    both = np.array(cohort["together"])
    both = (1 - SHRINKAGE) * both + SHRINKAGE * np.eye(len(both))

    def distance(chosen: list[str]) -> float:
        if not chosen:
            return 0.0
        rows = [places[name] for name in chosen]
        scaled = np.array([_scaled(found, numbers, name) for name in chosen])
        return float(scaled @ np.linalg.solve(both[np.ix_(rows, rows)], scaled)) / len(chosen)

    return distance(names), distance([name for name in names if name.endswith("/alike")])


def _scaled(
    found: Mapping[str, float], numbers: Mapping[str, Mapping[str, float]], name: str
) -> float:
    """Return how far a number is from a cohort's median; 0 where the patient lacks it.

    The unit is the cohort's spread, or half the tolerance where that is larger; at most `FARTHEST`
    of them count.
    """
    seen = numbers[name]
    unit = max(seen["spread"], NUMBERS[name.partition("/")[2]].tolerance / 2)
    scaled = (found.get(name, seen["median"]) - seen["median"]) / unit
    return min(max(scaled, -FARTHEST), FARTHEST)


def _subject(name: str) -> str:
    """Return what a number is about in words: ``t1+flair`` is `T1 and FLAIR`."""
    return " and ".join(NAMES.get(part, f"the {part}") for part in name.split("+"))


def _correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the correlation of two arrays; 0 where one of them is constant."""
    a, b = one - one.mean(), other - other.mean()
    size = float(np.sqrt((a**2).mean(dtype=np.float64) * (b**2).mean(dtype=np.float64)))
    return float((a * b).mean(dtype=np.float64)) / size if size else 0.0
