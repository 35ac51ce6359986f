"""What `lightning check` looks at: a cohort in a layout, registered patients, or raw exams."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.exams import sort_exams
from datamodules.layouts import CaseFiles, find_cases
from datamodules.registration_folder import is_registered, sort_registered
from datamodules.slice_sources import recognise
from errors import InputError


def find_checkable(root: Path, layout: str | None) -> tuple[list[CaseFiles], dict[str, str], bool]:
    """The cases of a cohort in a layout, of a registered folder, or a hospital's exams.

    Args:
        root: The folder of the cohort.
        layout: Name of a layout or a YAML file; None: by the names.

    Returns:
        The cases, what is wrong with others by case id, and whether they are exams, whose images
        may lie on grids of their own.

    Raises:
        InputError: As `find_cases`, where the folder holds no exams either.
    """
    if layout is None and is_registered(root):
        return *sort_registered(root), False
    try:
        return find_cases(root, layout), {}, False
    except InputError:
        if layout is not None or not root.is_dir() or recognise(root, None) != "exams":
            raise
        try:
            exams, problems = sort_exams(root)
        except InputError:
            exams, problems = [], {}
        if not any(len(exam.images) > 1 for exam in exams):
            raise
    return exams, problems, True


def check_table(
    problems: Mapping[str, Sequence[str]],
    notices: Mapping[str, Sequence[str]],
    patients: Mapping[str, str],
) -> Any:
    """Every case: the bad ones first, then those with a notice, then the good ones."""
    from rich.table import Column, Table

    grouped = any(case_id != patient for case_id, patient in patients.items())
    table = Table("case", *["patient"] * grouped, "state", Column("what", overflow="fold"))

    def add(case_id: str, state: str, what: Sequence[str]) -> None:
        who = patients[case_id] if patients[case_id] != case_id else ""
        table.add_row(case_id, *[who] * grouped, state, "; ".join(what))

    for case_id, wrong in problems.items():
        if wrong:
            add(case_id, "[red]bad[/red]", wrong)
    for case_id, known in notices.items():
        if known and not problems[case_id]:
            add(case_id, "notice", known)
    for case_id, wrong in problems.items():
        if not wrong and not notices[case_id]:
            add(case_id, "[green]good[/green]", [])
    return table
