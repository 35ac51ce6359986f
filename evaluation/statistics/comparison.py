"""Statistics of patients' scores: means with intervals, and differences between systems.

The unit is the patient. Everything of one patient (slices, seeds, time points) is averaged before
patients are averaged or compared.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from errors import InputError
from evaluation.statistics.columns import ScoreColumn

Row = Mapping[str, Any]
Systems = Mapping[str, Sequence[Row]]

ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 20_180_418
EXACT_PAIRS = 50
# Means over seeds carry rounding errors; they must neither break a tie nor hide an equality.
DIGITS = 12

INTERVALS = (
    f"intervals: {CONFIDENCE:.0%} bootstrap over patients (BCa, {RESAMPLES} resamples, fixed seed)"
)
TESTS = (
    "tests: paired Wilcoxon signed-rank, two-sided, equal pairs ranked and not counted (Pratt), "
    f"exact to {EXACT_PAIRS} unequal pairs"
)
METHODS = (
    INTERVALS,
    f"{TESTS}; Holm over all systems and regions of one metric in this table",
)


@dataclass(frozen=True)
class Summary:
    """Scores of one system in one column over patients.

    Args:
        n: patients with a score.
        missing: patients without one (NaN, or an empty cell).
        mean: over patients.
        sd: standard deviation with n - 1; NaN below two patients.
        median: over patients.
        low: lower end of the bootstrap interval of the mean; NaN below two patients.
        high: its upper end.
    """

    n: int
    missing: int
    mean: float
    sd: float
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A system against its reference in one column, patient by patient.

    Args:
        system: name of the compared system.
        reference: name of the system it is compared with.
        column: the score.
        n: pairs that count.
        dropped: patients without a score on one side or the other.
        equal: pairs without a difference, among n.
        difference: median of system minus reference, in the unit of the score.
        effect: matched-pairs rank-biserial correlation, -1 to 1; positive where the system is
            better, whatever the direction of the measure; equal pairs count for neither side.
        p: p value of the Wilcoxon signed-rank test.
        p_holm: the same, corrected within its family; NaN where nothing could be tested.
    """

    system: str
    reference: str
    column: ScoreColumn
    n: int
    dropped: int
    equal: int
    difference: float
    effect: float
    p: float
    p_holm: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after correction."""
        return self.p_holm < ALPHA


def patients_of(rows: Sequence[Row]) -> set[str]:
    """Return the patients of rows: column ``patient``, or where that is absent ``case_id``."""
    return {_patient(row) for row in rows}


def patient_scores(rows: Sequence[Row], column: ScoreColumn) -> dict[str, float]:
    """Return one score a patient: the mean over its rows (seeds, runs, time points) that have one.

    Args:
        rows: rows of one system, with ``case_id`` and maybe ``patient``.
        column: which score; of a measure of magnitude, every row's absolute value counts.

    Returns:
        Patient to score, in the order of patients' names; NaN where no row has a score.
    """
    collected: dict[str, list[float]] = {patient: [] for patient in sorted(patients_of(rows))}
    for row in rows:
        value = float(row.get(column.key, math.nan))
        if not math.isnan(value):
            value = abs(value) if column.measure.magnitude else value
            collected[_patient(row)].append(value)
    return {
        patient: math.fsum(values) / len(values) if values else math.nan
        for patient, values in collected.items()
    }


def summarise(scores: Mapping[str, float]) -> Summary:
    """Return mean, spread and interval of the patients that have a score.

    Without patients everything is NaN; of one patient spread and interval are unknown (NaN); of
    equal scores the spread is 0 and the interval is that value.
    """
    values = np.array([value for value in scores.values() if not math.isnan(value)])
    missing = len(scores) - values.size
    if not values.size:
        return Summary(0, missing, *[math.nan] * 5)
    mean = math.fsum(values) / values.size
    several = values.size > 1 and bool(np.isfinite(values).all())
    sd = float(np.std(values, ddof=1)) if several else math.nan
    low, high = _interval(tuple(values.tolist())) if several else (math.nan, math.nan)
    return Summary(values.size, missing, mean, sd, float(np.median(values)), low, high)


def ranking_means(systems: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the means that rank systems: over the patients for which every system has a score.

    So a system does not win by lacking scores for hard patients. A system without any score is not
    ranked, and where no patient is left none is.

    Args:
        systems: name to the scores of patients, as :func:`patient_scores` gives them.
    """
    counted = {
        name: {patient: score for patient, score in scores.items() if not math.isnan(score)}
        for name, scores in systems.items()
    }
    counted = {name: scores for name, scores in counted.items() if scores}
    shared = set.intersection(*map(set, counted.values())) if counted else set()
    return {
        name: math.fsum(scores[patient] for patient in shared) / len(shared)
        for name, scores in counted.items()
        if shared
    }


@lru_cache(maxsize=4096)
def _interval(values: tuple[float, ...]) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of at least two finite values.

    BCa, because scores are bounded and skewed (Dice near 1, HD95 with penalties), where the plain
    percentile interval lies too far towards the bound; it is the fallback where the correction is
    undefined.
    """
    if max(values) - min(values) < 10**-DIGITS:
        return min(values), max(values)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an undefined interval is handled below
            found = stats.bootstrap(
                (np.array(values),),
                np.mean,
                n_resamples=RESAMPLES,
                batch=500,  # resamples in memory at a time
                confidence_level=CONFIDENCE,
                method=method,
                rng=np.random.default_rng(SEED),
            ).confidence_interval
        if np.isfinite(found.low) and np.isfinite(found.high):
            break
    return float(found.low), float(found.high)


def signed_rank(differences: Sequence[float]) -> tuple[float, float]:
    """Return the two-sided p of the Wilcoxon signed-rank test and the rank-biserial effect.

    Pratt's treatment of zeros: they take part in the ranking, then their ranks are dropped. Two
    systems that agree on a patient are evidence of no difference, which discarding the pair would
    lose (both miss an empty region, Dice 1 and 1). Up to 50 unequal pairs the distribution under
    the hypothesis is exact, ties included, where scipy falls back on the normal approximation from
    14 pairs on; beyond that it is scipy's.

    Args:
        differences: one a pair, without NaN; infinite where a system failed altogether.
    """
    values = np.round(np.asarray(differences, dtype=float), DIGITS)
    moved = values[values != 0]
    if not moved.size:
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(values))
    effect = float((np.sign(values) * ranks).sum() / ranks.sum())
    if moved.size > EXACT_PAIRS:
        found = stats.wilcoxon(values, zero_method="pratt", method="asymptotic")
        return float(found.pvalue), effect
    doubled = np.rint(2 * ranks).astype(int)  # ranks of ties are halves
    kept, positive = doubled[values != 0], int(doubled[values > 0].sum())
    chances = np.ones(1)  # probability of every sum of positive ranks, if signs are random
    for rank in kept:
        chances = np.pad(chances, (0, rank)) / 2 + np.pad(chances, (rank, 0)) / 2
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return min(1.0, 2 * float(tail)), effect


def power_note(patients: int, tests: int) -> list[str]:
    """Return the sentence that so few patients need, none where there are enough.

    Args:
        patients: number of paired patients.
        tests: corrected together; after Holm the smallest p is that many times larger.
    """
    smallest = 2.0 ** (1 - patients)
    corrected = min(1.0, smallest * tests)
    if not patients or corrected < ALPHA:
        return []
    counted = f"{patients} patient{'' if patients == 1 else 's'}"
    if tests == 1:
        return [f"with {counted} no difference can be significant: the smallest p is {smallest:g}"]
    return [
        f"with {counted} and {tests} tests corrected together no difference can be significant: "
        f"the smallest p is {smallest:.2g}, after Holm {corrected:.2g}"
    ]


def power_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the sentences of :func:`power_note` for every family of comparisons."""
    notes: list[str] = []
    for family in dict.fromkeys(item.column.family for item in comparisons):
        tested = [item.n for item in comparisons if item.column.family == family and item.n]
        notes += power_note(max(tested, default=0), len(tested))
    return list(dict.fromkeys(notes))


def check_patients(systems: Systems) -> None:
    """Refuse systems that were not tested on the same patients.

    Raises:
        InputError: naming the patients that are not everywhere.
    """
    tested = {name: patients_of(rows) for name, rows in systems.items()}
    everywhere = set.intersection(*tested.values())
    for name, patients in tested.items():
        extra = sorted(patients - everywhere)
        if extra:
            lacking = next(other for other, theirs in tested.items() if extra[0] not in theirs)
            more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
            remedy = "; --allow_different_patients true compares those" if everywhere else ""
            raise InputError(
                f"{name} and {lacking} were not tested on the same patients: "
                f"{', '.join(extra[:5])}{more} only in the scores of {name}, and a "
                f"paired comparison needs the same patients ({len(everywhere)} are common to all"
                f"{remedy})."
            )


def common_patients(systems: Systems) -> dict[str, list[Row]]:
    """Return the systems reduced to the patients that all of them were tested on.

    Raises:
        InputError: when there is none.
    """
    everywhere = set.intersection(*(patients_of(rows) for rows in systems.values()))
    if not everywhere:
        raise InputError(
            f"No patient was tested by all of {', '.join(systems)}: compare systems that were "
            "tested on the same patients."
        )
    return {
        name: [row for row in rows if _patient(row) in everywhere] for name, rows in systems.items()
    }


def compare(
    systems: Systems, columns: Sequence[ScoreColumn], reference: str | Mapping[str, str]
) -> list[Comparison]:
    """Compare systems with a reference, patient by patient, corrected after Holm.

    The family that is corrected together is one measure: all its regions, all systems but the
    reference. Measures answer different questions and are families of their own.

    Args:
        systems: name to rows, of the same patients.
        columns: the scores.
        reference: name of a system, or column key to name where every column has its own.

    Returns:
        By column, then by system in their order.

    Raises:
        InputError: when the reference is not among the systems, or patients differ.
    """
    check_patients(systems)
    found: list[Comparison] = []
    for column in columns:
        chosen = reference if isinstance(reference, str) else reference.get(column.key)
        if chosen is None:
            continue
        if chosen not in systems:
            raise InputError(
                f"The reference {chosen!r} is not among the compared systems: expected one of "
                f"{', '.join(systems)}."
            )
        theirs = patient_scores(systems[chosen], column)
        for name, rows in systems.items():
            if name != chosen:
                found.append(
                    compare_pair(name, patient_scores(rows, column), chosen, theirs, column)
                )
    return correct(found)


def compare_pair(
    system: str,
    ours: Mapping[str, float],
    reference: str,
    theirs: Mapping[str, float],
    column: ScoreColumn,
) -> Comparison:
    """Compare two systems patient by patient, without correction.

    Args:
        system: name of the compared system.
        ours: its patients' scores.
        reference: name of the system it is compared with.
        theirs: scores of at least the same patients.
        column: the score.
    """
    pairs = [(ours[patient], theirs[patient]) for patient in ours]
    kept = [pair for pair in pairs if not any(map(math.isnan, pair))]
    dropped = len(pairs) - len(kept)
    if not kept:
        return Comparison(system, reference, column, 0, dropped, 0, math.nan, math.nan, math.nan)
    # two infinite distances are equal
    differences = np.round([0.0 if a == b else a - b for a, b in kept], DIGITS)
    p, effect = signed_rank(differences.tolist())
    return Comparison(
        system,
        reference,
        column,
        n=len(kept),
        dropped=dropped,
        equal=int((differences == 0).sum()),
        difference=float(np.median(differences)) + 0.0,
        effect=(effect if column.measure.higher else -effect) + 0.0,  # never -0.0
        p=p,
    )


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct comparisons after Holm, those of one measure together."""
    corrected = list(comparisons)
    for family in dict.fromkeys(item.column.family for item in comparisons):
        members = [
            index
            for index, item in enumerate(comparisons)
            if item.column.family == family and not math.isnan(item.p)
        ]
        if members:
            adjusted = holm([comparisons[index].p for index in members])
            for index, p in zip(members, adjusted, strict=True):
                corrected[index] = replace(comparisons[index], p_holm=float(p))
    return corrected


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, step by step from the smallest.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979). That of statsmodels collects garbage at every call, which took three
    quarters of the time of a comparison.
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def _patient(row: Row) -> str:
    return str(row.get("patient", row["case_id"]))
