"""Ways of testing the same systems: their means, and each way against the system as trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import (
    ALPHA,
    INTERVALS,
    TESTS,
    Comparison,
    Row,
    Systems,
    compare_pair,
    correct,
    patient_scores,
    patients_of,
    power_notes,
    ranking_means,
    summarise,
)
from evaluation.tables.intervals import EFFECT, dropped_notes, statistics_cells, statistics_columns
from evaluation.tables.provenance import Provenance
from evaluation.tables.systems import BenchmarkTable, Cell, Column, printed

METHOD = f"{TESTS}; Holm over all systems, ways of testing and regions of one metric in this table"
NAMED_AT_MOST = 6
Compared = dict[tuple[str, str, str], Comparison]


def compare_variants(variants: Mapping[str, Systems], columns: Sequence[ScoreColumn]) -> Compared:
    """Compare every system with itself, tested the first way, over the patients of both.

    A run that was tested one of the two ways alone counts in neither: runs differ from each other
    however they are tested. The family that is corrected together is one measure: all its regions,
    systems and ways.

    Args:
        variants: way of testing to systems to rows; the others are compared with the first way.
            Rows of several runs name theirs as ``trained``.
        columns: the scores.

    Returns:
        Way, system and key of the column to the comparison, where there is something to compare.
    """
    first, *others = variants
    found: Compared = {}
    for column in columns:
        for way in others:
            for system in [name for name in variants[way] if name in variants[first]]:
                rows, trained = variants[way][system], variants[first][system]
                both = runs_of(rows) & runs_of(trained)
                if not both:
                    continue
                theirs = patient_scores(_only(trained, both), column)
                scores = patient_scores(_only(rows, both), column)
                ours = {patient: scores[patient] for patient in scores if patient in theirs}
                found[way, system, column.key] = compare_pair(system, ours, first, theirs, column)
    return dict(zip(found, correct(list(found.values())), strict=True))


def runs_of(rows: Sequence[Row]) -> set[str]:
    """Return the runs of rows, as their column ``trained`` names them."""
    return {str(row.get("trained", "")) for row in rows}


def unpaired_runs(variants: Mapping[str, Systems]) -> list[str]:
    """Return a sentence on the runs that were not tested both ways, which no comparison counts.

    Args:
        variants: as for :func:`compare_variants`.
    """
    first, *others = variants
    excluded = []
    for way in others:
        for system in [name for name in variants[way] if name in variants[first]]:
            tested, trained = runs_of(variants[way][system]), runs_of(variants[first][system])
            lacks = [(way, trained - tested), (first, tested - trained)]
            for name, runs in lacks:
                named = sorted(runs) if len(runs) <= NAMED_AT_MOST else [f"{len(runs)} runs"]
                if runs:
                    excluded.append(f"{system} {', '.join(named)} (not tested {name})")
    excluded = list(dict.fromkeys(excluded))
    if not excluded:
        return []
    more = " and others" if len(excluded) > NAMED_AT_MOST else ""
    without = "; ".join(excluded[:NAMED_AT_MOST]) + more
    return [f"differences from {first} are over the runs tested both ways; without {without}"]


def variant_table(
    variants: Mapping[str, Systems],
    names: Sequence[str],
    columns: Sequence[ScoreColumn],
    compared: Compared,
    *,
    title: str,
    notes: Sequence[str],
) -> BenchmarkTable:
    """Return a way of testing a row, a system a column, grouped by score.

    The best system of a row is bold, and a cell is marked where it differs significantly from the
    same system tested the first way.

    Args:
        variants: way of testing to systems to rows, those of one way of the same patients.
        names: the systems, in the order of their columns; one may have rows nowhere.
        columns: the scores shown.
        compared: result of :func:`compare_variants`.
        title: above the table.
        notes: below it, before the explanation of its marks.
    """
    shown = [
        Column(
            f"{name}/{column.key}",
            name,
            f"{column.measure.heading}, {column.region}",
            column.measure.decimals,
        )
        for column in columns
        for name in names
    ]
    rows = []
    for way, systems in variants.items():
        cells: list[Cell] = []
        for column in columns:
            tests = {name: compared.get((way, name, column.key)) for name in names}
            found = _score_cells(systems, column, tests)
            cells += [found.get(name, Cell()) for name in names]
        rows.append((way, cells))
    first = next(iter(variants))
    reading = [
        "mean ± standard deviation over patients, seeds averaged within a patient; bold: best "
        "system of the row in this score",
        f"*: differs significantly from the same system {first} (Holm-corrected p < {ALPHA:g})",
        *power_notes(list(compared.values())),
        METHOD,
    ]
    return BenchmarkTable(
        title, shown, rows, [*notes, *(reading if compared else reading[:1])], corner="Tested"
    )


def variant_statistics(
    variants: Mapping[str, Systems],
    names: Sequence[str],
    columns: Sequence[ScoreColumn],
    compared: Compared,
    *,
    provenance: Provenance | None = None,
) -> list[BenchmarkTable]:
    """Return one table a measure: medians and intervals, and each way against the first.

    Args:
        variants: way of testing to systems to rows.
        names: the systems in their order.
        columns: the scores.
        compared: result of :func:`compare_variants`; if empty, there is no table.
        provenance: for the footnotes.
    """
    if not compared:
        return []
    first = next(iter(variants))
    patients = len(set().union(*(patients_of(r) for s in variants.values() for r in s.values())))
    tables = []
    for family in dict.fromkeys(column.family for column in columns):
        members = [column for column in columns if column.family == family]
        measure = members[0].measure
        rows: list[tuple[str, list[Cell]]] = []
        for column in members:
            for name in names:
                for way in [way for way, systems in variants.items() if name in systems]:
                    against = compared.get((way, name, column.key))
                    cells = statistics_cells(variants[way][name], column, against)
                    rows.append((name, [cells[0], Cell(text=way), *cells[1:]]))
        region, *others = statistics_columns(measure)
        tests = [item for item in compared.values() if item.column.family == family]
        notes = [
            *(provenance.sentences(patients, members) if provenance else []),
            f"difference, effect and p against the same system {first} over the same patients; "
            f"{EFFECT} than {first}",
            INTERVALS,
            METHOD,
            *power_notes(tests),
            *dropped_notes(tests),
        ]
        title = f"{measure.heading}, {members[0].scope}, against {first}"
        shown = [region, Column("tested", "Tested"), *others]
        tables.append(BenchmarkTable(title, shown, rows, notes, key=family.replace("/", "-")))
    return tables


def _only(rows: Sequence[Row], runs: set[str]) -> list[Row]:
    return [row for row in rows if str(row.get("trained", "")) in runs]


def _score_cells(
    systems: Mapping[str, Sequence[Row]],
    column: ScoreColumn,
    tests: Mapping[str, Comparison | None],
) -> dict[str, Cell]:
    """Return the cell of every system in one score; the best, and cells printed alike, are bold."""
    patients = {name: patient_scores(found, column) for name, found in systems.items()}
    ranked = ranking_means(patients)
    pick: Any = max if column.measure.higher else min
    decimals = column.measure.decimals
    best = printed(pick(ranked.values()), decimals) if len(ranked) > 1 else None
    cells = {}
    for name, scored in patients.items():
        found, test = summarise(scored), tests[name]
        cells[name] = Cell(
            found.mean,
            spread=found.sd,
            low=found.low,
            high=found.high,
            best=name in ranked and printed(ranked[name], decimals) == best,
            unlike=None if test is None else test.significant,
            summary=found,
        )
    return cells
