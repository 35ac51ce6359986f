"""The `lightning prepare` command: register a hospital's exams, and judge each result."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from command_parser import CommandParser, at_home
from datamodules.check_table import plain
from datamodules.exams.sequence_names import sort_exams
from datamodules.layouts.case_files import CaseFiles
from datamodules.patients.grouping import regroup
from datamodules.registration.cohort import register_cohort
from datamodules.registration.folder import REPORT, SHEET, finished
from datamodules.registration.patient import exam_problems, sources_of
from errors import InputError
from files import read_json
from outputs import refuse_among_inputs


def main(argv: Sequence[str]) -> int:
    """Register all exams and print one table; return 1 if any exam is bad."""
    from rich.console import Console

    options = parse(argv)
    root = Path(options.root).expanduser()
    refuse_among_inputs(options.out, "--out", root, [root])
    exams, ambiguous = sort_exams(options.root, options.labels)
    exams, grouping = regroup(exams, options.patient)
    if options.patient is not None:  # an empty place keeps the patient from being read again
        exams = [replace(exam, place="") for exam in exams]
    waiting = sum(_is_waiting(exam, options.out, options.missing) for exam in exams)
    cases, problems = register_cohort(
        exams,
        options.out,
        missing=options.missing,
        accept_flagged=options.accept_flagged == "true",
        workers=options.workers,
    )
    problems |= ambiguous
    total = len(exams) + len(ambiguous)
    # In a file or a pipe every case stays on one line; a terminal wraps long lines.
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    console.print(_table(exams, problems, options.out))
    for notice in grouping:
        console.print(notice)
    if waiting:
        console.print(f"{len(cases)} of {total} patients registered in {options.out}")
    else:
        console.print(
            f"nothing was to be done: {len(cases)} of {total} patients registered in {options.out}"
        )
    console.print(f"look at the pictures: {options.out}{os.sep}*{os.sep}{SHEET}")
    return 1 if problems else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of a `lightning prepare` command line."""
    parser = CommandParser(
        prog="lightning prepare",
        description="Register every modality of hospital exams to T2, one folder a patient.",
        examples=["lightning prepare --data.root EXAMS --out REGISTERED"],
    )
    parser.add_argument(
        "--data.root", dest="root", required=True, help="folder of exams, one folder a patient"
    )
    parser.add_argument("--out", type=at_home, required=True, help="folder to write")
    parser.add_argument(
        "--data.labels",
        dest="labels",
        help="meaning of drawn labels, e.g. brats2021 (default: 1, 2, 3)",
    )
    parser.add_argument(
        "--data.patient",
        dest="patient",
        metavar="REGEX",
        help="one group that finds the patient in an exam's path (default: by the names)",
    )
    parser.add_argument(
        "--data.missing",
        dest="missing",
        choices=("error", "zero"),
        default="error",
        help="zero: go on without a modality that is missing (not T2)",
    )
    parser.add_argument(
        "--data.accept_flagged",
        dest="accept_flagged",
        choices=("true", "false"),
        default="false",
        help="true: use flagged registrations too, after a look at their sheets",
    )
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")
    return parser.parse_args(list(argv))


def _is_waiting(exam: CaseFiles, out: Path, missing: str) -> bool:
    """Whether an exam has yet to be registered."""
    if exam_problems(exam, missing):
        return False
    try:
        return finished(out / exam.case_id, sources_of(exam, missing)) is None
    except InputError:  # `register_cohort` names it
        return True


def _table(exams: Sequence[CaseFiles], problems: Mapping[str, str], out: Path) -> Any:
    """Every patient: those with a problem first, then those with a notice, then the good ones."""
    from rich.table import Column, Table
    from rich.text import Text

    known = {exam.case_id for exam in exams}
    rows: list[tuple[int, tuple[str, ...]]] = [
        (0, (case_id, "[red]failed[/red]", "", "", "", what))
        for case_id, what in problems.items()
        if case_id not in known  # its files were ambiguous
    ]
    for exam in exams:
        path = out / exam.case_id / REPORT
        report = read_json(path) if path.is_file() else None
        problem = problems.get(exam.case_id)
        stands = report is not None and any(flag in (problem or "") for flag in report["flags"])
        if problem is not None and not stands:  # an earlier verdict does not hold for changed files
            rows.append((0, (exam.case_id, "[red]failed[/red]", "", "", "", problem)))
            continue
        assert report is not None  # a patient without a problem is registered
        flagged = bool(report["flags"])
        state = "[green]good[/green]"
        if flagged:
            accepted = ", accepted" if report["accepted"] else ""
            state = f"[yellow]flagged{accepted}[/yellow]"
        words = [*report["flags"], *report["notices"]]
        moved = [_moved(report["registration"].get(m)) for m in ("t1", "t1ce", "flair")]
        rows.append(
            (1 if flagged else 2 if words else 3, (exam.case_id, state, *moved, "; ".join(words)))
        )
    table = Table("patient", "verdict", "t1", "t1ce", "flair", Column("what", overflow="fold"))
    for _, (case_id, state, *others) in sorted(rows):
        table.add_row(Text(plain(case_id)), state, *(Text(plain(cell)) for cell in others))
    return table


def _moved(figures: Mapping[str, Any] | None) -> str:
    """Return how far a sequence had moved, as text."""
    if figures is None:
        return "-"
    return f"{figures['rotation_degrees']:.1f}°, {figures['shift_mm']:.1f} mm"
