"""The systems of a benchmark side by side, as far as they are tested."""

from dataclasses import replace
from pathlib import Path

from errors import InputError
from evaluation.statistics import patients_of
from studies.benchmark_tables import BenchmarkScores, provenance, read_benchmark_scores
from studies.side_by_side import SideBySide, side_by_side

NAMED_AT_MOST = 6


def benchmark_systems(folder: Path) -> tuple[BenchmarkScores, SideBySide, list[str]]:
    """Read a benchmark's folder and put what is tested side by side.

    Args:
        folder: with ``plan.json``.

    Returns:
        What it measured, its systems as trained, and what is missing, a sentence each.

    Raises:
        InputError: when nothing is tested yet, or a file is damaged.
    """
    scores = read_benchmark_scores(folder)
    plan = scores.plan
    tested = [
        item for cell, item in zip(scores.cells, scores.tested, strict=True) if not cell["variant"]
    ]
    if not tested:
        raise InputError(
            f"{folder} has no tested system yet, looked for from {Path.cwd()}: run `lightning "
            f"benchmark {plan.get('file', 'FILE')}` to its end first, or go to where it was run."
        )
    patients = {name: patients_of(rows) for name, rows in scores.rows().items()}
    uneven = len({frozenset(found) for found in patients.values()}) > 1
    reference = plan.get("reference")
    beside = side_by_side(
        tested,
        reference if reference in patients else None,
        different_patients=uneven,
        different=plan.get("allow_different", []),
    )
    remarks = []
    if uneven:
        shared = set.intersection(*patients.values())
        remarks.append(f"Compared are the {len(shared)} patients that all systems were tested on.")
    remarks += _open(scores)
    return scores, replace(beside, provenance=provenance(scores)), remarks


def _open(scores: BenchmarkScores) -> list[str]:
    """Name the tests that the plan has and nobody finished."""
    done = {cell["per_case"] for cell in scores.cells}
    lacking = []
    for cell in scores.plan["cells"]:
        if cell["per_case"] not in done:
            fold = "" if cell["fold"] in ("", None) else f"fold {cell['fold']}"
            details = filter(None, [fold, f"seed {cell['seed']}", cell["variant"]])
            lacking.append(f"{cell['system']} ({', '.join(details)})")
    if not lacking:
        return []
    more = " and others" if len(lacking) > NAMED_AT_MOST else ""
    return [f"Not tested, so left out: {', '.join(lacking[:NAMED_AT_MOST])}{more}."]
