"""Make the tables that a benchmark's file requests, from the scores that are there."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.layouts.conventions import REGIONS
from errors import InputError
from evaluation.figures.box_plots import comparison_png
from evaluation.figures.heat_map import variants_png
from evaluation.figures.patient_number import patient_number_png
from evaluation.page.page import shared_footnotes
from evaluation.statistics.columns import SLICES, ScoreColumn
from evaluation.statistics.comparison import Row, common_patients, patients_of
from evaluation.tables.formats import to_csv, to_latex, to_markdown, to_terminal
from evaluation.tables.intervals import statistics_tables
from evaluation.tables.provenance import Provenance
from evaluation.tables.systems import BenchmarkTable, benchmark_table
from evaluation.tables.variants import (
    compare_variants,
    unpaired_runs,
    variant_statistics,
    variant_table,
)
from files import Content
from outputs import Outputs
from studies.benchmarks.fairness import grouped
from studies.benchmarks.patient_numbers import trained_on
from studies.benchmarks.scores import BenchmarkScores, Mark, by_seed
from studies.scores.provenance import is_as_published, provenance_of
from studies.scores.side_by_side import unequal_runs

AS_TRAINED = "as trained"


def make_tables(scores: BenchmarkScores, reference: str | None = None) -> list[BenchmarkTable]:
    """Return the tables that the benchmark's file requests, each followed by its statistics.

    A table whose systems share no patient has no rows, but a footnote with the reason.

    Args:
        scores: scores of the benchmark.
        reference: system the others are tested against; None: the file's.
    """
    tables = []
    chosen = reference or scores.plan["reference"]
    for number, wanted in enumerate(scores.plan["tables"], start=1):
        key = f"table-{number}"
        if wanted.get("variants"):
            tables += _variant_tables(scores, wanted, key)
            continue
        try:
            rows, columns = _selection(scores, wanted)
        except InputError as error:
            tables.append(BenchmarkTable(wanted["title"], [], [], [str(error)], key=key))
            continue
        if not rows:
            continue
        if not columns:
            found = BenchmarkTable(wanted["title"], [], [], _unmeasured(wanted, columns), key=key)
            tables.append(found)
            continue
        tables.append(_main_table(scores, wanted, rows, columns, key))
        if chosen in rows and len(rows) > 1:
            source = provenance(scores, list(rows), _left_out(scores, rows))
            for table in statistics_tables(rows, columns, chosen, provenance=source):
                tables.append(_renamed(table, f"{wanted['title']}: {table.title}", key))
    return tables


def write_tables(
    folder: Path, scores: BenchmarkScores, tables: Sequence[BenchmarkTable]
) -> list[Path]:
    """Write every table of a benchmark as Markdown, LaTeX and CSV, and a picture of each.

    Args:
        folder: folder of the benchmark; the files go into its subfolder ``tables``.
        scores: scores of the benchmark.
        tables: tables made of these scores.

    Returns:
        The files; empty if nothing was tested yet.
    """
    outputs, files = Outputs(folder, "--out"), []

    def write(name: str, content: Content) -> None:
        files.append(outputs.settle(f"tables/{name}", content))

    for table in tables:
        for suffix, writer in (("md", to_markdown), ("tex", to_latex), ("csv", to_csv)):
            write(f"{table.key}.{suffix}", writer(table))
    for table in variant_tables(scores, tables):
        write(f"{table.key}.png", partial(variants_png, table))
    for name, draw_curve in patient_curves(scores).items():
        write(f"{name}.png", draw_curve)
    made = {table.key for table in tables if table.rows}
    for number, wanted in enumerate(scores.plan["tables"], start=1):
        if wanted.get("variants") or f"table-{number}" not in made:
            continue
        rows, columns = _selection(scores, wanted)
        if len(rows) > 1:
            reference = scores.plan["reference"]
            first = reference if reference in rows else next(iter(rows))
            draw = partial(comparison_png, rows, columns, first, title=wanted["title"])
            write(f"table-{number}.png", draw)
    for file in set((folder / "tables").glob("table-*")) - set(files):  # outdated files
        outputs.remove(f"tables/{file.name}")
    return files


def variant_tables(
    scores: BenchmarkScores, tables: Sequence[BenchmarkTable]
) -> list[BenchmarkTable]:
    """Return the tables of a benchmark whose rows are ways of testing."""
    keys = {
        f"table-{number}"
        for number, wanted in enumerate(scores.plan["tables"], start=1)
        if wanted.get("variants")
    }
    return [table for table in tables if table.key in keys and table.columns]


def patient_curves(scores: BenchmarkScores) -> dict[str, partial[None]]:
    """Return the curves over the number of patients trained on, as functions that draw a file.

    Args:
        scores: scores of the benchmark.

    Returns:
        A function for each table whose systems differ in that number, by the picture's name.
    """
    found = {}
    for number, wanted in enumerate(scores.plan["tables"], start=1):
        if wanted.get("variants"):
            continue
        try:
            rows, columns = _selection(scores, wanted, by_seed)
        except InputError:
            continue
        points = trained_on(scores.plan.get("systems", []), rows)
        shown = [column for column in columns if column.measure.name == "dice"]
        if points and shown:
            draw = partial(patient_number_png, points, shown, title=wanted["title"])
            found[f"table-{number}-patients"] = draw
    return found


def show_tables(tables: Sequence[BenchmarkTable]) -> None:
    """Print a benchmark's tables without statistics; footnotes of all tables stand at the end."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)
    shown = [table for table in tables if re.fullmatch(r"table-\d+", table.key)]
    shared, own = shared_footnotes(shown)
    for table in own:
        console.print(to_terminal(table, console.width))
        console.print()
    if shared:
        console.print("All tables", *(Text(f" {note}", style="dim") for note in shared), sep="\n")
        console.print()


def provenance(
    scores: BenchmarkScores,
    systems: Sequence[str] = (),
    remarks: Sequence[str] = (),
    variants: Sequence[str] = (),
) -> Provenance:
    """Return the provenance of scores.

    Args:
        scores: scores of the benchmark.
        systems: their systems; empty: all.
        remarks: further notes.
        variants: names of further tests that are shown beside those as trained.
    """
    chosen = [
        item
        for cell, item in zip(scores.cells, scores.tested, strict=True)
        if (not systems or cell["system"] in systems) and cell["variant"] in ("", *variants)
    ]
    plan = scores.plan
    notes = [
        f"settings that differ: {key} {grouped(values)}"
        for key, values in plan.get("differences", {}).items()
    ]
    if plan.get("n_folds"):
        notes.append(f"folds {', '.join(map(str, plan['folds']))} of {plan['n_folds']}")
    return provenance_of(chosen, [*remarks, *notes])


def _selection(
    scores: BenchmarkScores, wanted: Mapping[str, Any], marked: Mark | None = None
) -> tuple[dict[str, list[Row]], list[ScoreColumn]]:
    """Return the systems of a table, over the patients that all share, and its columns."""
    rows = scores.rows(marked=marked)
    names = wanted.get("experiments") or list(rows)
    chosen = {name: rows[name] for name in names if name in rows}
    shared = common_patients(chosen) if chosen else {}
    return shared, _columns(wanted, shared)


def _left_out(scores: BenchmarkScores, rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return notes on systems with several runs, and on patients that not all were tested on."""
    runs = Counter(cell["system"] for cell in scores.cells if not cell["variant"])
    notes = unequal_runs({name: runs[name] for name in rows})
    all_patients = set().union(*(patients_of(scores.rows()[name]) for name in rows))
    number = len(all_patients) - len(patients_of(next(iter(rows.values()))))
    if number:
        notes.append(f"only the patients that all were tested on; {number} left out")
    return notes


def _metrics(wanted: Mapping[str, Any]) -> list[str]:
    return list(wanted.get("metrics") or ["dice", "hd95"])


def _unmeasured(wanted: Mapping[str, Any], columns: Sequence[ScoreColumn]) -> list[str]:
    """Return a note on the metrics that a table asks for and the scores lack."""
    lacking = set(_metrics(wanted)) - {column.measure.name for column in columns}
    scope = " of slices" if wanted.get("scope") == "slices" else ""
    return [f"not among the scores{scope}: {', '.join(sorted(lacking))}"] if lacking else []


def _columns(wanted: Mapping[str, Any], rows: Mapping[str, Sequence[Row]]) -> list[ScoreColumn]:
    prefix = SLICES if wanted.get("scope") == "slices" else ""
    keys = [
        f"{prefix}{metric}/{region}"
        for metric in _metrics(wanted)
        for region in wanted.get("regions") or REGIONS
    ]
    parsed = [column for key in keys if (column := ScoreColumn.parse(key))]
    return [
        column
        for column in parsed
        if all(any(column.key in row for row in found) for found in rows.values())
    ]


def _main_table(
    scores: BenchmarkScores,
    wanted: Mapping[str, Any],
    rows: Mapping[str, Sequence[Row]],
    columns: Sequence[ScoreColumn],
    key: str,
) -> BenchmarkTable:
    manifests = {name: scores.first(name).manifest for name in rows}
    cited = {
        name: str(manifest["experiment"])
        for name, manifest in manifests.items()
        if is_as_published(manifest)
    }
    table = benchmark_table(
        rows,
        columns,
        title=wanted["title"],
        parameters={name: manifest["parameters"] for name, manifest in manifests.items()},
        experiments=cited if wanted.get("published") else None,
        provenance=provenance(
            scores, list(rows), [*_left_out(scores, rows), *_unmeasured(wanted, columns)]
        ),
    )
    return _renamed(table, wanted["title"], key)


def _variant_tables(
    scores: BenchmarkScores, wanted: Mapping[str, Any], key: str
) -> list[BenchmarkTable]:
    """Return the table of ways of testing, and the statistics of those that can be compared."""
    by_variant = {
        variant or AS_TRAINED: scores.rows_with_runs(variant)
        for variant in ("", *wanted["variants"])
    }
    trained = by_variant[AS_TRAINED]
    names = wanted.get("experiments") or list(trained)
    columns = _columns(wanted, {name: rows for name, rows in trained.items() if name in names})
    there = {
        label: {name: rows[name] for name in names if name in rows}
        for label, rows in by_variant.items()
    }
    variants = {label: _shared(rows) for label, rows in there.items()}
    all_patients = set().union(*(patients_of(trained[name]) for name in names if name in trained))
    tested = {
        label: patients_of(next(iter(systems.values()))) if systems else set()
        for label, systems in variants.items()
    }
    fewer = [f"{label} {len(found)}" for label, found in tested.items() if all_patients - found]
    partly = f"a row is over the patients that all its systems have; fewer: {', '.join(fewer)}"
    remarks = [*([partly] if fewer else []), *unpaired_runs(there)]
    source = provenance(scores, names, remarks, wanted["variants"])
    notes = source.sentences(len(all_patients), columns)
    compared = compare_variants(variants, columns)
    table = variant_table(variants, names, columns, compared, title=wanted["title"], notes=notes)
    return [
        _renamed(table, wanted["title"], key),
        *(
            _renamed(one, f"{wanted['title']}: {one.title}", key)
            for one in variant_statistics(variants, names, columns, compared, provenance=source)
        ),
    ]


def _shared(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the rows of the patients that all systems share; empty if they share none."""
    try:
        return common_patients(rows) if rows else {}
    except InputError:
        return {}


def _renamed(table: BenchmarkTable, title: str, key: str) -> BenchmarkTable:
    name = key if table.key == "systems" else f"{key}-{table.key}"
    return BenchmarkTable(
        title, table.columns, table.rows, table.footnotes, corner=table.corner, key=name
    )
