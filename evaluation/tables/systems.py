"""Tables of systems as data: columns, rows, cells and footnotes, before any format is chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import (
    ALPHA,
    METHODS,
    Comparison,
    Summary,
    Systems,
    compare,
    patient_scores,
    patients_of,
    power_notes,
    ranking_means,
    summarise,
)
from evaluation.tables.provenance import Provenance
from evaluation.tables.published import PUBLISHED, citations

OTHER_DATA = "published, other data"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: unique in the table; names it in CSV.
        header: what readers see.
        group: the heading above it, empty for none: a region, parameters, published.
        decimals: those printed; None prints whole numbers with separators.
        ranked: whether its best and tied cells are marked.
    """

    key: str
    header: str
    group: str = ""
    decimals: int | None = 3
    ranked: bool = False


@dataclass(frozen=True)
class Cell:
    """One value with its spread, interval and marks; an empty one prints as a dash.

    Args:
        value: unrounded.
        spread: standard deviation, printed after it.
        low: lower end of its interval.
        high: upper end of its interval.
        text: printed instead of the value.
        best: whether it is the best of its column, at the printed precision.
        tied: whether it is not significantly worse than the best.
        unlike: whether it differs significantly from the value it is compared with; None where the
            table makes no such comparison.
        summary: the scores behind a mean, for CSV.
    """

    value: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    text: str | None = None
    best: bool = False
    tied: bool = False
    unlike: bool | None = None
    summary: Summary | None = None


@dataclass(frozen=True)
class BenchmarkTable:
    """A table as data, before any format is chosen.

    Args:
        title: above it.
        columns: after the first, which names the rows.
        rows: name and one cell a column.
        footnotes: sentences under it.
        corner: header of the first column.
        key: short name without spaces, for files.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    footnotes: Sequence[str] = ()
    corner: str = "System"
    key: str = "systems"


def printed(value: float, decimals: int | None) -> str:
    """Return a number as tables show it; zero has no sign."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if decimals is None:
        return f"{value:,.0f}"
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def benchmark_table(
    systems: Systems,
    columns: Sequence[ScoreColumn],
    *,
    title: str = "",
    parameters: Mapping[str, Mapping[str, int]] | None = None,
    experiments: Mapping[str, str] | None = None,
    provenance: Provenance | None = None,
) -> BenchmarkTable:
    """Return systems side by side: mean and spread over patients, a group of columns a region.

    The best of a column is bold, and so are cells that print alike; a system is marked as tied
    where it is not significantly worse than the best, after Holm.

    Args:
        systems: name to the rows of ``per_case.csv``, of the same patients.
        columns: the scores shown.
        title: above the table.
        parameters: name to ``all`` and ``trained``; None leaves the columns out.
        experiments: name to experiment, whose published numbers stand beside; None for none.
        provenance: for the footnotes.
    """
    scores = {
        name: {column.key: patient_scores(rows, column) for column in columns}
        for name, rows in systems.items()
    }
    summaries = {
        name: {key: summarise(values) for key, values in found.items()}
        for name, found in scores.items()
    }
    ranked = {
        column.key: ranking_means({name: own[column.key] for name, own in scores.items()})
        for column in columns
    }
    best = _best(ranked, columns) if len(systems) > 1 else {}
    comparisons = compare(systems, columns, best)
    against_best = {(item.system, item.column.key): item for item in comparisons}
    cited = experiments or {}
    other = _published_columns(cited, columns, with_parameters=parameters is not None)
    counts = [Column(f"parameters/{name}", name, "parameters", None) for name in ("all", "trained")]
    groups = {column.key: _group(column, columns) for column in columns}
    ordered = [
        c for group in dict.fromkeys(groups.values()) for c in columns if groups[c.key] == group
    ]
    shown = [
        *(counts if parameters is not None else []),
        *(
            Column(c.key, c.measure.heading, groups[c.key], c.measure.decimals, ranked=True)
            for c in ordered
        ),
        *other,
    ]
    rows: list[tuple[str, list[Cell]]] = []
    for name in systems:
        cells = []
        for column in shown:
            if column.group == OTHER_DATA:
                cells.append(_published_cell(cited.get(name, ""), column))
            elif column.group == "parameters":
                cells.append(Cell((parameters or {}).get(name, {}).get(column.header)))
            else:
                cells.append(
                    _score_cell(
                        column,
                        summaries[name][column.key],
                        ranked[column.key].get(name),
                        ranked[column.key].get(best.get(column.key, "")),
                        against_best.get((name, column.key)),
                    )
                )
        rows.append((name, cells))
    patients = len(set().union(*(patients_of(found) for found in systems.values())))
    notes = (provenance or Provenance()).sentences(patients, columns)
    notes += _missing_notes(summaries, ordered)
    spread = "mean ± standard deviation over patients, seeds averaged within a patient"
    if len(systems) == 1:
        notes.append(spread)
    else:
        notes += _ranking_notes(spread)
        notes += [*power_notes(comparisons), METHODS[1]]
    if other:
        notes += [f"{OTHER_DATA}: {source}" for source in citations(cited.values())]
    return BenchmarkTable(title, shown, rows, notes)


def _ranking_notes(spread: str) -> list[str]:
    return [
        f"{spread}; bold: best of its column, all that print alike",
        f"†: not significantly worse than the best (Holm-corrected p ≥ {ALPHA:g}, or better in "
        "most patients)",
    ]


def _group(column: ScoreColumn, columns: Sequence[ScoreColumn]) -> str:
    """Name the region, and the scope where the table has both."""
    several = len({other.slices for other in columns}) > 1
    return f"{column.region}, {column.scope}" if several or column.slices else column.region


def _best(
    ranked: Mapping[str, Mapping[str, float]], columns: Sequence[ScoreColumn]
) -> dict[str, str]:
    """Return the column's key to the system with the best mean; the first of equal ones."""
    found: dict[str, str] = {}
    for column in columns:
        means = ranked[column.key]
        if means:
            pick: Any = max if column.measure.higher else min
            found[column.key] = pick(means, key=means.__getitem__)
    return found


def _score_cell(
    column: Column,
    summary: Summary,
    ranked: float | None,
    top: float | None,
    against: Comparison | None,
) -> Cell:
    """Return a mean with its marks.

    Args:
        column: column of the table.
        summary: statistics of all patients that have a score.
        ranked: mean by which the system is ranked; None where it is not.
        top: mean of the best system.
        against: comparison with the best system; None of that system itself.
    """
    if not summary.n:
        return Cell(math.nan, summary=summary)
    is_best = (
        ranked is not None
        and top is not None
        and printed(ranked, column.decimals) == printed(top, column.decimals)
    )
    # A mean can be best for a few patients while most are better served by another system.
    behind = against is not None and against.significant and against.effect < 0
    return Cell(
        summary.mean,
        spread=None if math.isnan(summary.sd) else summary.sd,
        low=summary.low,
        high=summary.high,
        best=is_best,
        tied=not (is_best or behind) and against is not None and against.n > 0,
        summary=summary,
    )


def _published_columns(
    cited: Mapping[str, str], columns: Sequence[ScoreColumn], *, with_parameters: bool
) -> list[Column]:
    entries = [PUBLISHED[name] for name in cited.values() if name in PUBLISHED]
    found = [
        Column(
            f"published/{column.key}",
            f"{column.region} {column.measure.heading}",
            OTHER_DATA,
            column.measure.decimals,
        )
        for column in columns
        if any(column.key in entry.scores for entry in entries)
    ]
    if with_parameters and any(entry.parameters for entry in entries):
        for part in ("all", "trained"):
            found.append(
                Column(f"published/parameters/{part}", f"parameters, {part}", OTHER_DATA, None)
            )
    return found


def _published_cell(experiment: str, column: Column) -> Cell:
    entry = PUBLISHED.get(experiment)
    if entry is None:
        return Cell()
    key = column.key.removeprefix("published/")
    if key.startswith("parameters/"):
        return Cell((entry.parameters or (None, None))[key.endswith("trained")])
    return Cell(entry.scores.get(key))


def _missing_notes(
    summaries: Mapping[str, Mapping[str, Summary]], columns: Sequence[ScoreColumn]
) -> list[str]:
    """Name the means that leave patients out, and over which patients they are ranked."""
    notes = []
    ranking = "; bold goes by the patients for whom all have one" if len(summaries) > 1 else ""
    for column in columns:
        lacking = {
            name: item[column.key].missing
            for name, item in summaries.items()
            if item[column.key].missing
        }
        if lacking:
            named = ", ".join(f"{name} {count}" for name, count in lacking.items())
            notes.append(f"{column.key}: patients without a score, left out: {named}{ranking}")
    return notes
