"""The statistics behind a table of systems: medians, intervals, tests against the reference."""

import math
from collections.abc import Sequence

from evaluation.statistics.columns import Measure, ScoreColumn
from evaluation.statistics.comparison import (
    METHODS,
    Comparison,
    Row,
    Systems,
    compare,
    patient_scores,
    patients_of,
    power_notes,
    summarise,
)
from evaluation.tables.provenance import Provenance
from evaluation.tables.systems import BenchmarkTable, Cell, Column, printed

DESCRIBING = 4  # columns that describe one system
EFFECT = "effect: matched-pairs rank-biserial, positive where the system is better"


def statistics_tables(
    systems: Systems,
    columns: Sequence[ScoreColumn],
    reference: str,
    *,
    provenance: Provenance | None = None,
) -> list[BenchmarkTable]:
    """Return one table a measure: medians and intervals, and each system against the reference.

    Args:
        systems: name to rows, of the same patients; one alone is compared with nothing.
        columns: the scores.
        reference: name of the system the others are compared with.
        provenance: for the footnotes.
    """
    patients = len(patients_of(systems[reference]))
    found = {(item.system, item.column.key): item for item in compare(systems, columns, reference)}
    alone = len(systems) == 1
    tables = []
    for family in dict.fromkeys(column.family for column in columns):
        members = [column for column in columns if column.family == family]
        measure, scope = members[0].measure, members[0].scope
        shown = statistics_columns(measure)[: DESCRIBING if alone else None]
        rows = [
            (
                name,
                statistics_cells(rows_of, column, found.get((name, column.key)))[: len(shown)],
            )
            for column in members
            for name, rows_of in systems.items()
        ]
        against = [
            f"difference, effect and p against {reference} over the same patients; {EFFECT}",
        ]
        tests = [item for item in found.values() if item.column.family == family]
        notes = provenance.sentences(patients, members) if provenance else []
        notes += [METHODS[0]] if alone else [*against, *METHODS, *power_notes(tests)]
        notes += dropped_notes(tests)
        title = f"{measure.heading}, {scope}" + ("" if alone else f", against {reference}")
        tables.append(BenchmarkTable(title, shown, rows, notes, key=family.replace("/", "-")))
    return tables


def statistics_columns(measure: Measure) -> list[Column]:
    """Return the columns of a table of statistics: those of one system, then those of its tests."""
    places = measure.decimals
    return [
        Column("region", "Region"),
        Column("n", "n", decimals=None),
        Column("mean", "mean (95 % interval)", decimals=places),
        Column("median", "median", decimals=places),
        Column("difference", "median difference", decimals=places),
        Column("effect", "effect", decimals=2),
        Column("p", "p", decimals=4),
        Column("p_holm", "p (Holm)", decimals=4),
    ]


def dropped_notes(tests: Sequence[Comparison]) -> list[str]:
    """Return the sentence about pairs that could not be compared, none where all could."""
    dropped = sum(item.dropped for item in tests)
    return [f"{dropped} pairs without a score on one side were left out"] if dropped else []


def statistics_cells(
    rows: Sequence[Row], column: ScoreColumn, against: Comparison | None
) -> list[Cell]:
    """Return the cells of :func:`statistics_columns`.

    Args:
        rows: rows of one system.
        column: the score.
        against: its comparison; None leaves the tests empty.
    """
    places = column.measure.decimals
    summary = summarise(patient_scores(rows, column))
    mean, low, high = (printed(v, places) for v in (summary.mean, summary.low, summary.high))
    compared: list[Cell] = [Cell()] * 4  # the reference itself
    if against is not None:
        compared = [
            Cell(against.difference),
            Cell(against.effect),
            *(Cell(p, text=_p_text(p)) for p in (against.p, against.p_holm)),
        ]
    return [
        Cell(text=column.region),
        Cell(summary.n),
        Cell(
            summary.mean,
            low=summary.low,
            high=summary.high,
            text=mean if math.isnan(summary.low) else f"{mean} ({low} to {high})",
        ),
        Cell(summary.median),
        *compared,
    ]


def _p_text(p: float) -> str:
    return "<0.0001" if p < 0.0001 else printed(p, 4)
