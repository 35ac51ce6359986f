"""The `lightning report` command: one page of a run, of several, or of a benchmark."""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from errors import InputError
from evaluation.comparison_figure import comparison_png
from evaluation.curves import systems_curves_png
from evaluation.measures import ScoreColumn
from evaluation.report import Picture, Report, to_page
from evaluation.systems_figure import systems_png
from evaluation.tables import read_csv
from evaluation.viewed_case import ViewedCase
from evaluation.viewer_volumes import packed
from studies.benchmark_results import BenchmarkResults, read_results
from studies.compared_runs import Tested, find_tested
from studies.environment import versions
from studies.report_cases import choose_cases, view_cases
from studies.runs import write_atomically
from studies.side_by_side import SideBySide, side_by_side

MOST_BYTES = 60_000_000
CASES_AT_MOST = 8  # systems beside each other in one picture are legible


def main(words: Sequence[str]) -> int:
    """Write the page and say where it is."""
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
    runs_dir: Path = Path("runs"),
    reference: str | None = None,
    pictures: bool = True,
) -> Path:
    """Write the report of tested runs, or of one benchmark's folder.

    Args:
        sources: what names runs for ``lightning compare``, or the folder of one benchmark.
        out: the page; None: ``report.html`` in the benchmark's folder or the working directory.
        runs_dir: folder of all runs.
        reference: system the others are compared with; None: the benchmark's, or the first.
        pictures: whether the worst, median and best patient are segmented again and shown.

    Returns:
        The page.

    Raises:
        InputError: when there is nothing to report, or runs cannot be compared.
    """
    folders = [Path(source) for source in sources if (Path(source) / "plan.json").is_file()]
    if folders and len(sources) > 1:
        raise InputError(
            f"{folders[0]} is the folder of a benchmark: report it alone, or name runs."
        )
    page = out or (folders[0] if folders else Path()) / "report.html"
    _check_writable(page)
    results: BenchmarkResults | None = None
    if folders:
        results = read_results(folders[0])
        beside = results.side_by_side()
    else:
        tested = [find_tested(str(source), runs_dir) for source in sources]
        beside = side_by_side(tested, reference)
    report = _compose(beside, results, pictures=pictures)
    text = to_page(report)
    if len(text) > MOST_BYTES:
        raise InputError(
            f"The page would have {len(text) / 1e6:.0f} MB: leave its pictures out with "
            "--pictures false, or report fewer systems."
        )
    try:
        write_atomically(page, text)
    except OSError as error:
        raise InputError(
            f"{page} cannot be written ({error.strerror or error}): give another file with --out "
            "or make room."
        ) from error
    return page


def _compose(beside: SideBySide, results: BenchmarkResults | None, *, pictures: bool) -> Report:
    columns = beside.columns()
    everything = [c for key in beside.shared_names() if (c := ScoreColumn.parse(key))]
    others = [c for c in everything if c.key not in {column.key for column in columns}]
    names = list(beside.systems)
    title = str(results.plan.get("name", results.folder.name)) if results else ", ".join(names[:4])
    title += f" and {len(names) - 4} more" if not results and len(names) > 4 else ""
    remarks = list(results.remarks) if results else []
    tables = (results.tables() if results else []) or [beside.table(columns, "Dice and HD95")]
    if others:
        tables.append(beside.table(others, "Further measures", published=False))
    with TemporaryDirectory() as scratch:
        studio = Path(scratch)
        distributions = _distributions(beside, columns, studio)
        curves = _curves(beside, studio, remarks)
        calibration = _calibration(beside, studio, remarks)
        viewed: list[ViewedCase] = []
        if pictures:
            chosen = choose_cases(beside.rows)
            viewed, missing = view_cases(beside.systems, chosen)
            remarks += missing
            if missing and not viewed:
                remarks.append("Overlays and viewer are left out: no system could be asked again.")
        cases = [(case.place, _case_picture(case, studio)) for case in viewed]
    provenance = beside.provenance
    patients = int(beside.counted_patients.split()[0])
    return Report(
        title=title,
        provenance=provenance.sentences(patients),
        empty_rule=provenance.empty_rule,
        synthetic="SYNTHETIC" in provenance.cohort or any(case.synthetic for case in viewed),
        tables=tables,
        statistics=beside.statistics(columns),
        distributions=distributions,
        columns=[*columns, *others],
        rows=beside.rows,
        curves=curves,
        calibration=calibration,
        cases=cases,
        ranking="By mean Dice over regions and systems. Contours: what each says, on the slice "
        "where the reference has most tumour.",
        viewed=[packed(case) for case in viewed],
        remarks=remarks,
        made=f"made {time.strftime('%Y-%m-%d %H:%M')} by gliofuse {versions().get('gliofuse', '')}",
    )


def _distributions(
    beside: SideBySide, columns: Sequence[ScoreColumn], studio: Path
) -> list[Picture]:
    """One picture a measure: a page is not as wide as a paper's figure."""
    found = []
    for family in dict.fromkeys(column.family for column in columns):
        members = [column for column in columns if column.family == family]
        file = studio / f"{family.replace('/', '-')}.png"
        comparison_png(beside.rows, members, beside.reference, file)
        text = f"{members[0].measure.heading}, {members[0].scope}, {beside.counted_patients}."
        found.append(Picture.of(file, text))
    return found


def _curves(beside: SideBySide, studio: Path, remarks: list[str]) -> list[Picture]:
    files: dict[str, list[Path]] = {
        name: [run.file.parent / "metrics.csv" for run in runs if run.manifest]
        for name, runs in beside.systems.items()
    }
    trained = {
        name: [read_csv(file) for file in found if file.is_file()] for name, found in files.items()
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
    systems_curves_png({name: trained.get(name, []) for name in files}, studio / "curves.png")
    return [Picture.of(studio / "curves.png", "Each line is a run; scores are of validation.")]


def _calibration(beside: SideBySide, studio: Path, remarks: list[str]) -> list[Picture]:
    return []


def _case_picture(case: ViewedCase, studio: Path) -> Picture:
    file = studio / f"{case.case_id}.png"
    systems_png(case, file)
    return Picture.of(file, f"{case.case_id}: reference and {', '.join(case.predictions)}", 1.0)


def _check_writable(page: Path) -> None:
    if page.is_dir():
        raise InputError(f"--out {page} is a folder: expected a file such as {page}/report.html.")
    place = page.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"--out {page} cannot be written: give another file.")


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lightning report",
        description="Write one HTML page of tested runs or of a benchmark; it opens offline.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN|BENCHMARK",
        help="folder of a benchmark, or tested runs as for `lightning compare`: a run folder, an "
        "experiment, experiment/id, a per_case.csv file, NAME=RUN",
    )
    parser.add_argument("--out", type=Path, help="the page; default: report.html")
    parser.add_argument("--reference", help="system the others are tested against; default: first")
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument(
        "--pictures",
        choices=("true", "false"),
        default="true",
        help="segment the worst, median and best patient again and show them",
    )
    return parser.parse_args(list(words))
