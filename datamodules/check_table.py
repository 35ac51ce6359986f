"""The table of `lightning check`: one case on each line."""

from collections.abc import Mapping, Sequence
from typing import Any


def check_table(
    problems: Mapping[str, Sequence[str]],
    notices: Mapping[str, Sequence[str]],
    patients: Mapping[str, str],
) -> Any:
    """Every case: the bad ones first, then those with a notice, then the good ones.

    Args:
        problems: Case id to why the case cannot be used.
        notices: Case id to notices for the user.
        patients: Case id to patient id; a column shows those that differ.
    """
    from rich.table import Column, Table
    from rich.text import Text

    grouped = any(case_id != patient for case_id, patient in patients.items())
    table = Table("case", *["patient"] * grouped, "state", Column("what", overflow="fold"))

    def add(case_id: str, state: str, what: Sequence[str]) -> None:
        patient = patients[case_id] if patients[case_id] != case_id else ""
        # as Text, so that brackets in a name are not read as markup
        words = [Text(plain(word)) for word in [case_id, *[patient] * grouped, "; ".join(what)]]
        table.add_row(*words[:-1], state, words[-1])

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


def plain(words: str) -> str:
    """Return text on one line, its unprintable characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
