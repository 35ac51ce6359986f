"""The `lightning check` command: a cohort in a layout, registered patients, or raw exams."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from command_parser import CommandParser
from datamodules.cases.checks import duplicates, examine
from datamodules.cases.reading import Reading
from datamodules.check_table import check_table, plain
from datamodules.exams.sequence_names import sort_exams
from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.conventions import LabelConvention
from datamodules.layouts.label_values import misread, remarks
from datamodules.patients.find import find_cases
from datamodules.patients.grouping import one_person, regroup
from datamodules.patients.left_out import left_out
from datamodules.registration.folder import is_registered, sort_registered
from datamodules.registration.patient import exam_problems
from datamodules.slices.sources import recognise
from errors import InputError
from files import cores
from progress import Bar


def main(argv: Sequence[str]) -> int:
    """Examine every case of a cohort and print one table; return 1 if any case is bad."""
    from rich.console import Console

    parser = CommandParser(
        prog="lightning check",
        description="Check every case of a cohort before training on it.",
        examples=["lightning check --data.root /data/BraTS2018"],
    )
    parser.add_argument("--data.root", dest="root", required=True, help="folder of the cohort")
    parser.add_argument("--data.layout", dest="layout", help="layout name or YAML file")
    parser.add_argument(
        "--data.patient",
        dest="patient",
        metavar="REGEX",
        help="one group that finds the patient in a case's path (default: by the names)",
    )
    parser.add_argument(
        "--data.labels", dest="labels", help="what label values mean: a layout's name or YAML file"
    )
    options = parser.parse_args(list(argv))
    root = Path(options.root).expanduser()
    found, unclear, exams = find_checkable(root, options.layout, options.labels)
    cases, grouping = regroup(found, options.patient)
    problems: dict[str, list[str]] = {case_id: [what] for case_id, what in unclear.items()}
    notices: dict[str, list[str]] = {case_id: [] for case_id in unclear}
    hashes: dict[str, str] = {}
    digests: dict[str, dict[str, str]] = {}
    labels: dict[str, tuple[LabelConvention, set[int]]] = {}

    def inspect(case: CaseFiles) -> tuple[Reading, str]:
        if exams:  # their images are compared once they are registered
            reading = Reading(case)
            reading.problems += exam_problems(case, "error")
            return reading, ""
        reading = examine(case)
        content = "" if reading.problems else reading.content_hash()
        reading.images.clear()  # frees the voxels; only the findings are kept
        reading.label = reading.brain = None
        return reading, content

    with (
        ThreadPoolExecutor(max(1, cores() // 2)) as pool,
        Bar(pool.map(inspect, cases), desc="checking", total=len(cases)) as bar,
    ):
        for reading, content in bar:
            case = reading.case
            unlabelled = ["no label"] if case.label is None else []
            problems[case.case_id] = reading.problems
            notices[case.case_id] = reading.notices + unlabelled
            digests[case.case_id] = reading.modality_hashes
            labels[case.case_id] = (case.convention, reading.values)
            if content:
                hashes[case.case_id] = content
    for case_id, sentence in (*duplicates(hashes).items(), *misread(labels).items()):
        problems[case_id].append(sentence)
    for case_id, sentence in remarks(labels).items():
        notices[case_id].append(sentence)
    bad = [case_id for case_id, wrong in problems.items() if wrong]
    # In a file or a pipe every case stays on one line; a terminal wraps long lines.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    stated = {case_id: case_id for case_id in unclear}
    stated |= {case.case_id: case.patient_id for case in cases}
    usable = {case_id: held for case_id, held in digests.items() if not problems[case_id]}
    patients, same = one_person(stated, usable)
    console.print(check_table(problems, notices, patients))
    for sentence in (*grouping, *same, *left_out(root, cases)):
        console.print(plain(sentence), markup=False, highlight=False)
    meanings = sorted({case.convention.describe() for case in cases})
    console.print(f"labels read as {' or '.join(meanings)}", markup=False, highlight=False)
    layouts = ", ".join(sorted({case.layout for case in cases}))
    plural = "" if len(problems) == 1 else "s"
    console.print(f"{len(problems)} case{plural} ({layouts}), {len(bad)} of them bad")
    if exams:
        console.print("raw exams, checked by names and headers: lightning prepare registers them")
    return 1 if bad else 0


def find_checkable(
    root: Path, layout: str | None, labels: str | None
) -> tuple[list[CaseFiles], dict[str, str], bool]:
    """The cases of a cohort in a layout, of a registered folder, or a hospital's exams.

    Args:
        root: The folder of the cohort.
        layout: Name of a layout or a YAML file; None: by the names.
        labels: What label values mean, a name or a YAML file; None: as the layout says.

    Returns:
        The cases, the problem of each other case by its id, and whether they are exams, whose
        images may lie on grids of their own.

    Raises:
        InputError: As `find_cases`, where the folder holds no exams either.
    """
    if layout is None and is_registered(root):
        return *sort_registered(root), False
    try:
        return find_cases(root, layout, labels), {}, False
    except InputError:
        if layout is not None or not root.is_dir() or recognise(root, None) != "exams":
            raise
        try:
            exams, problems = sort_exams(root, labels)
        except InputError:
            exams, problems = [], {}
        if not any(len(exam.images) > 1 for exam in exams):
            raise
    return exams, problems, True
