"""The `lightning report` command: write one page about tested runs or a benchmark."""

import argparse
import csv
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from command_parser import CommandParser, at_home
from errors import InputError
from evaluation.figures.box_plots import comparison_png
from evaluation.figures.curves import systems_curves_png
from evaluation.figures.heat_map import variants_png
from evaluation.figures.patient_number import band_of
from evaluation.figures.reliability import calibration_table, reliability_png
from evaluation.figures.side_by_side import systems_png
from evaluation.figures.viewed_case import ViewedCase
from evaluation.metrics.calibration import Reliability
from evaluation.page.page import SHOWN_FIRST, Picture, Report, to_page
from evaluation.page.viewer_volumes import packed
from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import patients_of
from evaluation.tables.per_case import complete_rows, read_csv
from evaluation.tables.systems import BenchmarkTable
from outputs import Outputs
from studies.benchmarks.systems import benchmark_systems, refuse_unrun
from studies.benchmarks.tables import make_tables, patient_curves, variant_tables
from studies.jobs.study_files import claim
from studies.runs.environment import versions
from studies.runs.input_record import check_writable
from studies.scores.provenance import home_of
from studies.scores.side_by_side import SideBySide, side_by_side
from studies.scores.tested import find_tested
from studies.training.segment_again import choose_cases, view_cases

MOST_BYTES = 60_000_000
NAMED_AT_MOST = 4  # systems in the title
MOST_BOXES = 15  # most box plots in a row of a picture


def main(words: Sequence[str]) -> int:
    """Write the page and print where it is."""
    options = _parse(words)
    page = write_report(
        options.runs,
        options.out,
        runs_dir=options.runs_dir,
        reference=options.reference,
        pictures=options.pictures == "true",
    )
    print(f"Report  {page}  ({page.stat().st_size / 1e6:.1f} MB, opens in any browser, offline)")
    return 0


def write_report(
    sources: Sequence[str | Path],
    out: Path | None = None,
    *,
    runs_dir: Path | None = None,
    reference: str | None = None,
    pictures: bool = True,
    settled: bool = False,
) -> Path:
    """Write the report of tested runs, or of one benchmark's folder.

    Args:
        sources: runs as for ``lightning compare``, or the folder of one benchmark.
        out: the page; None: ``report.html`` in the benchmark's folder or the working directory.
        runs_dir: folder of all runs; None: ``runs``. Not beside a benchmark's folder.
        reference: system the others are compared with; None: the benchmark's, or the first.
        pictures: whether the worst, median and best patient are segmented again and shown.
        settled: whether to keep a page that the user changed under another name, instead of
            refusing.

    Returns:
        Path of the page.

    Raises:
        InputError: when there is nothing to report, or runs cannot be compared.
    """
    folders = [Path(source) for source in sources if (Path(source) / "plan.json").is_file()]
    if folders and len(sources) > 1:
        raise InputError(
            f"{folders[0]} is the folder of a benchmark: report it alone, or name runs."
        )
    if folders and runs_dir is not None:
        raise InputError(f"--runs_dir has no effect beside {folders[0]}: leave it out.")
    runs_dir = runs_dir or Path("runs")
    page = out or (folders[0] if folders else Path()) / "report.html"
    if page.is_dir():
        raise InputError(f"--out {page} is a folder: expected a file such as {page}/report.html.")
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {page} is no page: expected a name that ends in .html.")
    check_writable(page.parent, f"--out {page}", "file")
    if folders:
        given: dict[str, Any] = {"reference": reference} if reference else {}
        scores, compared, remarks = benchmark_systems(folders[0], **given)
        title, tables = str(scores.plan["name"]), make_tables(scores, **given)
        variants, drawn = variant_tables(scores, tables), patient_curves(scores)
    else:
        for source in sources:
            refuse_unrun(Path(source), runs_dir)
        tested = [find_tested(str(source), runs_dir) for source in sources]
        compared, remarks, tables = side_by_side(tested, reference), [], []
        variants, drawn = [], {}
        title = _title(list(compared.systems))
    if folders:
        claim(folders[0])
    outputs = Outputs(page.parent, "--out")
    if not settled:
        outputs.check([page.name])
    report = _compose(compared, title, tables, variants, drawn, remarks, pictures=pictures)
    text = _within_limit(report)
    try:
        (outputs.settle if settled else outputs.write)(page.name, text)
    except OSError as error:
        raise InputError(
            f"{page} cannot be written ({error.strerror or error}): give another file with --out "
            "or make room."
        ) from error
    return page


def _within_limit(report: Report) -> str:
    """Return the page; if it is too large for browsers, without the viewer and further measures."""
    text = to_page(report)
    shown = [column for column in report.columns if column.family in SHOWN_FIRST]
    smaller: list[tuple[str, dict[str, Any]]] = []
    if report.viewed:
        smaller.append(("The viewer is", {"viewed": []}))
    if shown and len(shown) < len(report.columns):
        smaller.append(
            (
                "Further measures of the table of patients are (per_case.csv has them)",
                {"columns": shown},
            )
        )
    for what, change in smaller:
        size = len(text.encode())
        if size <= MOST_BYTES:
            break
        remark = f"{what} left out: else the page would have {size / 1e6:.0f} MB."
        report = replace(report, **change, remarks=[*report.remarks, remark])
        text = to_page(report)
    return text


def _title(names: Sequence[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _compose(
    compared: SideBySide,
    title: str,
    planned: Sequence[BenchmarkTable],
    variants: Sequence[BenchmarkTable],
    drawn: Mapping[str, partial[None]],
    remarks: list[str],
    *,
    pictures: bool,
) -> Report:
    """Make the content of the page.

    Args:
        compared: the systems.
        title: title of the page.
        planned: tables and statistics of a benchmark's file; empty for single runs.
        variants: tables among them whose rows are ways of testing.
        drawn: curves over the number of patients trained on, by name.
        remarks: sentences for the page; those on missing parts are added.
        pictures: whether patients are segmented again and shown.
    """
    columns = compared.columns()
    everything = [c for key in compared.shared_names() if (c := ScoreColumn.parse(key))]
    others = [c for c in everything if c.key not in {column.key for column in columns}]
    planned_means = [table for table in planned if re.fullmatch(r"table-\d+", table.key)]
    of_variants = tuple(f"{table.key}-" for table in variants)
    tested = [table for table in planned if table not in planned_means]
    ways = [table for table in tested if table.key.startswith(of_variants)]
    statistics = [table for table in tested if table not in ways]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        distributions = [
            *(_patients(draw, folder / f"{name}.png") for name, draw in drawn.items()),
            *_variants(variants, folder),
            *draw_distributions(compared, columns, folder),
        ]
        curves = _curves(compared, folder, remarks)
        reliabilities = _reliabilities(compared, remarks)
        calibration = _calibration(reliabilities, folder)
        viewed: list[ViewedCase] = []
        if pictures:
            chosen = choose_cases(compared.rows)
            viewed, missing = view_cases(compared.systems, chosen)
            remarks += missing
            if missing and not viewed:
                remarks.append("Overlays and viewer are left out: no system could be run again.")
        cases = [
            (case.place, _case_picture(case, folder / f"case-{number}.png"))
            for number, case in enumerate(viewed)
        ]
    provenance = compared.provenance
    patients = len(patients_of(compared.rows[compared.reference]))
    return Report(
        title=title,
        provenance=provenance.sentences(patients),
        synthetic=provenance.synthetic or any(case.synthetic for case in viewed),
        tables=planned_means or [compared.table(columns, "Dice and HD95")],
        further=_further(compared, others),
        statistics=statistics or compared.statistics(columns),
        ways=ways,
        distributions=distributions,
        columns=[*columns, *others],
        rows=compared.rows,
        curves=curves,
        calibration_table=calibration_table(reliabilities, provenance=provenance, patients=patients)
        if reliabilities
        else None,
        calibration=calibration,
        cases=cases,
        ranking="By mean Dice over regions and systems. Contours: reference and predictions on "
        "the slice where the reference has most tumour.",
        viewed=[packed(case) for case in viewed],
        remarks=remarks,
        made=f"made {time.strftime('%Y-%m-%d %H:%M')} by gliofuse {versions().get('gliofuse', '')}",
    )


def _further(compared: SideBySide, columns: Sequence[ScoreColumn]) -> list[BenchmarkTable]:
    """Return a table of further scores for each region."""
    scopes = dict.fromkeys((column.region, column.scope) for column in columns)
    return [
        compared.table(
            [column for column in columns if (column.region, column.scope) == (region, scope)],
            f"{region}, {scope}",
            with_parameters=False,
        )
        for region, scope in scopes
    ]


def _variants(tables: Sequence[BenchmarkTable], folder: Path) -> list[Picture]:
    found = []
    for table in tables:
        file = folder / f"{table.key}.png"
        variants_png(table, file)
        marks = "bold: best system of a row; *: differs significantly from as trained"
        found.append(Picture.of(file, f"{table.title}: means; {marks}."))
    return found


def _patients(draw: partial[None], file: Path) -> Picture:
    draw(file)
    return Picture.of(file, f"Dice by the number of patients trained on; {band_of(draw.args[0])}.")


def draw_distributions(
    compared: SideBySide, columns: Sequence[ScoreColumn], folder: Path
) -> list[Picture]:
    """Draw a picture for each measure, or one of all measures if each has a single region.

    With many systems each region gets a picture, and its tests are still corrected together.
    """
    families = list(dict.fromkeys(column.family for column in columns))
    groups = [[column for column in columns if column.family == family] for family in families]
    if all(len(group) == 1 for group in groups):
        groups = [list(columns)]
    parts = [
        (part, members)
        for members in groups
        for part in ([[c] for c in members] if _crowded(compared, members) else [members])
    ]
    found = []
    for number, (shown, members) in enumerate(parts):
        file = folder / f"distribution-{number}.png"
        comparison_png(compared.rows, shown, compared.reference, file, family=members)
        regions = f" of {shown[0].region}" if len(shown) < len(members) else ""
        named = "; ".join(dict.fromkeys(f"{c.measure.heading}{regions}, {c.scope}" for c in shown))
        found.append(Picture.of(file, f"{named}; {compared.counted_patients}."))
    return found


def _crowded(compared: SideBySide, columns: Sequence[ScoreColumn]) -> bool:
    """Whether the panels of these scores would be too small side by side."""
    regions = len({column.region for column in columns})
    return regions > 1 and regions * len(compared.rows) > MOST_BOXES


def _curves(compared: SideBySide, folder: Path, remarks: list[str]) -> list[Picture]:
    files = {
        name: [home / "metrics.csv" for run in runs if (home := home_of(run))]
        for name, runs in compared.systems.items()
    }
    trained = {
        name: [complete_rows(file) for file in found if file.is_file()]
        for name, found in files.items()
    }
    trained = {name: rows for name, rows in trained.items() if any(rows)}
    without = [name for name in files if name not in trained]
    if without:
        remarks.append(
            f"Without learning curves, because nothing was trained or recorded: "
            f"{', '.join(without)}."
        )
    if not trained:
        return []
    systems_curves_png({name: trained.get(name, []) for name in files}, folder / "curves.png")
    return [Picture.of(folder / "curves.png", "Each line is a run; scores are of validation.")]


def _reliabilities(compared: SideBySide, remarks: list[str]) -> dict[str, dict[str, Reliability]]:
    """Return the calibration counts of all runs by system and region, where there are any."""
    found: dict[str, dict[str, Reliability]] = {}
    for name, runs in compared.systems.items():
        shown = {str(row["case_id"]) for row in compared.rows[name]}
        files = [run.file.parent / "calibration.csv" for run in runs]
        rows = []
        for file in filter(Path.is_file, files):
            try:
                rows += _calibration_rows(file)
            except InputError as error:
                remarks.append(str(error))
        rows = [row for row in rows if row["case_id"] in shown]
        regions = dict.fromkeys(str(row["region"]) for row in rows)
        counts = {
            region: Reliability.from_rows(row for row in rows if row["region"] == region)
            for region in regions
        }
        if counts:
            found[name] = counts
    without = [name for name in compared.systems if name not in found]
    if without:
        remarks.append(
            f"Without calibration: {', '.join(without)}; `lightning test` writes calibration.csv "
            "beside per_case.csv, so test again."
        )
    return found


def _calibration_rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows = read_csv(file, text=("case_id", "region"))
        for row in rows:
            Reliability.from_rows([row])
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(
            f"{file} is damaged and cannot be read as calibration counts: test again, or remove "
            "the file."
        ) from error
    return rows


def _calibration(
    reliabilities: Mapping[str, Mapping[str, Reliability]], folder: Path
) -> list[Picture]:
    found = []
    for number, (name, counts) in enumerate(reliabilities.items()):
        file = folder / f"calibration-{number}.png"
        reliability_png(counts, file, name)
        found.append(Picture.of(file, f"{name}: observed share against predicted probability."))
    return found


def _case_picture(case: ViewedCase, file: Path) -> Picture:
    systems_png(case, file)
    return Picture.of(file, f"{case.case_id}: reference and {', '.join(case.predictions)}", 1.0)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="lightning report",
        description="Write one HTML page of tested runs or of a benchmark; it opens offline.",
        examples=[
            "lightning report fusion dynunet late_fusion --reference fusion --out report.html",
            "lightning report benchmarks/dual_fusion",
        ],
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN|BENCHMARK",
        help="folder of a benchmark, or tested runs as for `lightning compare`: a run folder, an "
        "experiment, experiment/id, a per_case.csv file, NAME=RUN",
    )
    parser.add_argument("--out", type=at_home, help="the page; default: report.html")
    parser.add_argument("--reference", help="system the others are tested against; default: first")
    parser.add_argument("--runs_dir", type=at_home, help="folder of all runs (default: runs)")
    parser.add_argument(
        "--pictures",
        choices=("true", "false"),
        default="true",
        help="segment the worst, median and best patient again and show them",
    )
    return parser.parse_args(list(words))
