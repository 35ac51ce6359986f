"""The table of `lightning check`: a case on each line, whatever files are called."""

from collections.abc import Sequence
from typing import Any


def check_table(problems: dict[str, list[str]], notices: dict[str, list[str]]) -> Any:
    """Every case: the bad ones first, then those with a notice, then the good ones."""
    from rich.table import Column, Table
    from rich.text import Text

    def shown(words: Sequence[str]) -> Text:
        return Text(plain("; ".join(words)))  # as it is: brackets are no markup

    table = Table("case", "state", Column("what", overflow="fold"))
    for case_id, wrong in problems.items():
        if wrong:
            table.add_row(shown([case_id]), "[red]bad[/red]", shown(wrong))
    for case_id, known in notices.items():
        if known and not problems[case_id]:
            table.add_row(shown([case_id]), "notice", shown(known))
    for case_id, wrong in problems.items():
        if not wrong and not notices[case_id]:
            table.add_row(shown([case_id]), "[green]good[/green]", "")
    return table


def plain(words: str) -> str:
    """Words on one line that any terminal can print, whatever a file is called."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
