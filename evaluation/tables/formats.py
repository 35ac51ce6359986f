"""Tables of systems written as Markdown, LaTeX, CSV, HTML and for the terminal.

pandas escapes nothing in LaTeX and knows no marked cells, no rules below groups and no footnotes.
"""

import csv
import io
import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evaluation.tables.systems import BenchmarkTable, Cell, Column, printed

EMPTY = "–"  # noqa: RUF001, a dash as printed tables have it
DAGGER = "†"
STAR = "*"
MANY = 8  # columns, above which HTML sets them closer
LONG = 40  # rows, above which HTML lets them scroll
SUMMARY_PARTS = ("sd", "median", "low", "high", "n", "missing")

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "†": r"$^\dagger$",
    "*": r"$^*$",  # bare at the beginning of a line it would belong to the line break before
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    EMPTY: "--",
}


def cell_text(cell: Cell, column: Column) -> str:
    """Return a cell's text without emphasis: value, spread, marks of its tests."""
    if cell.text is not None:
        return cell.text
    if cell.value is None:
        return EMPTY
    text = printed(cell.value, column.decimals)
    if cell.spread is not None and not math.isnan(cell.spread):
        text += f" ± {printed(cell.spread, column.decimals)}"
    return text + (DAGGER if cell.tied else "") + (STAR if cell.unlike else "")


def to_markdown(table: BenchmarkTable) -> str:
    """Return a Markdown table, its groups in the headers, its footnotes as a list."""
    headers = [
        table.corner,
        *(": ".join(filter(None, (c.group, c.header))) for c in table.columns),
    ]
    ruler = [":--", *["--:"] * len(table.columns)]
    lines = [headers, ruler]
    for name, cells in table.rows:
        texts = []
        for column, cell in zip(table.columns, cells, strict=True):
            text = _markdown(cell_text(cell, column))
            texts.append(f"**{text}**" if cell.best else text)
        lines.append([_markdown(name), *texts])
    lines[0] = [_markdown(header) for header in headers]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    title = f"**{_markdown(table.title)}**\n\n" if table.title else ""
    notes = "".join(f"- {_markdown(note)}\n" for note in table.footnotes)
    return f"{title}{body}\n" + (f"\n{notes}" if notes else "")


def to_latex(table: BenchmarkTable) -> str:
    """Return a LaTeX table for the packages booktabs and graphicx, all text escaped."""
    width = len(table.columns)
    lines = [r"\begin{table}", r"\centering"]
    if table.title:
        lines.append(rf"\caption{{{latex(table.title)}}}")
    lines += [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * width}}}",
        r"\toprule",
        *_latex_groups(table.columns),
        " & ".join([latex(table.corner), *(latex(c.header) for c in table.columns)]) + r" \\",
        r"\midrule",
    ]
    for name, cells in table.rows:
        texts = []
        for column, cell in zip(table.columns, cells, strict=True):
            text = latex(cell_text(cell, column))
            texts.append(rf"\textbf{{\boldmath {text}}}" if cell.best else text)
        lines.append(" & ".join([latex(name), *texts]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.footnotes:
        notes = r" \\".join(f"\n{latex(note)}" for note in table.footnotes)
        lines.append(rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize{notes}}}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_csv(table: BenchmarkTable) -> str:
    """Return comma-separated values with unrounded numbers, a line a row of the table.

    A mean brings columns for its spread, median, interval and counts; the last column repeats the
    footnotes, so that a line that is copied out keeps them.
    """
    means = {
        column.key
        for index, column in enumerate(table.columns)
        if any(cells[index].summary is not None for _, cells in table.rows)
    }
    rows: list[dict[str, Any]] = []
    for name, cells in table.rows:
        row: dict[str, Any] = {table.corner.lower(): name}
        for column, cell in zip(table.columns, cells, strict=True):
            if column.key in means:
                row |= _mean_fields(column.key, cell)
            else:
                row[column.key] = cell.text if cell.value is None else cell.value
                if cell.low is not None:
                    row |= {f"{column.key}/low": cell.low, f"{column.key}/high": cell.high}
        rows.append({**row, "notes": "; ".join(table.footnotes)})
    names = dict.fromkeys(name for row in rows for name in row if name != "notes")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*names, "notes"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_html(table: BenchmarkTable) -> str:
    """Return the table as a figure of HTML, all text escaped: caption, table, footnotes."""
    spans = [
        f'<th scope="colgroup" colspan="{len(list(members))}">{escape(group)}</th>'
        for group, members in groupby(table.columns, key=lambda column: column.group)
    ]
    grouped = any(column.group for column in table.columns)
    many = ' class="many"' if len(table.columns) > MANY else ""
    heads = "".join(f'<th scope="col">{escape(column.header)}</th>' for column in table.columns)
    lines, section = [], None
    for name, cells in table.rows:
        begins = _has_lead(table) and section not in (None, cells[0].text)
        section = cells[0].text if cells else None
        texts = []
        for column, cell in zip(table.columns, cells, strict=True):
            text = escape(cell_text(cell, column))
            texts.append(f"<td><strong>{text}</strong></td>" if cell.best else f"<td>{text}</td>")
        row = '<tr class="section">' if begins else "<tr>"
        lines.append(f'{row}<th scope="row">{escape(name)}</th>{"".join(texts)}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.footnotes)
    return "\n".join(
        [
            '<figure class="table">',
            f"<figcaption>{escape(table.title)}</figcaption>" if table.title else "",
            f'<div class="{"wide long" if len(table.rows) > LONG else "wide"}">'
            f"<table{many}><thead>",
            f"<tr><td></td>{''.join(spans)}</tr>" if grouped else "",
            f'<tr><th scope="col">{escape(table.corner)}</th>{heads}</tr></thead>',
            f"<tbody>{''.join(lines)}</tbody></table></div>",
            f'<ul class="notes">{notes}</ul>' if notes else "",
            "</figure>",
        ]
    )


def to_terminal(table: BenchmarkTable, width: int = 100) -> Group:
    """Return the table for ``rich``: the best bold, footnotes below.

    Args:
        table: to be shown.
        width: characters of a line; groups of columns that do not fit go into a table below.
    """
    blocks = _blocks(table, width)
    title = [Text(table.title, style="bold")] if table.title else []
    notes = [Text(f" {note}", style="dim") for note in table.footnotes]
    return Group(*title, *(_terminal_block(table, block) for block in blocks), *notes)


def _blocks(table: BenchmarkTable, width: int) -> list[list[int]]:
    """Return the columns of each block: whole groups where they fit, single columns elsewhere."""
    names = max(len(name) for name in (table.corner, *(row[0] for row in table.rows)))
    # the column that distinguishes rows of one name is repeated in every block
    lead = [0] if _has_lead(table) else []
    start = names + 2 + sum(_width(table, index) + 3 for index in lead)
    units: list[list[int]] = []
    for _, members in groupby(range(len(lead), len(table.columns)), lambda i: _group(table, i)):
        indices = list(members)
        fits = start + sum(_width(table, index) + 3 for index in indices) <= width
        units += [indices] if fits else [[index] for index in indices]
    blocks: list[list[int]] = []
    room = 0
    for unit in units:
        needed = sum(_width(table, index) + 3 for index in unit)
        if not blocks or room + needed > width:
            blocks.append(list(lead))
            room = start
        blocks[-1] += unit
        room += needed
    return blocks


def _group(table: BenchmarkTable, index: int) -> str:
    return table.columns[index].group


def _has_lead(table: BenchmarkTable) -> bool:
    return any(cells and cells[0].text is not None for _, cells in table.rows)


def _terminal_block(table: BenchmarkTable, indices: Sequence[int]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column(table.corner, no_wrap=True, vertical="bottom")
    previous = ""
    for index in indices:  # a group is named once, above its first column
        column = table.columns[index]
        group = f"{column.group}\n" if column.group not in ("", previous) else ""
        shown.add_column(
            group + column.header,
            justify="right",
            vertical="bottom",
            width=_width(table, index),
        )
        previous = column.group
    sections = [cells[0].text for _, cells in table.rows] if _has_lead(table) else []
    for position, (name, cells) in enumerate(table.rows):
        texts = [
            Text(cell_text(cells[i], table.columns[i]), style="bold" if cells[i].best else "")
            for i in indices
        ]
        ends = sections[position : position + 2]
        shown.add_row(Text(name), *texts, end_section=len(set(ends)) == 2)
    return shown


def _width(table: BenchmarkTable, index: int) -> int:
    """Return the characters of a column: headers are broken between words, numbers never."""
    column = table.columns[index]
    texts = [cell_text(cells[index], column) for _, cells in table.rows]
    return max(map(len, [*texts, *column.group.split(), *column.header.split()]))


def latex(text: str) -> str:
    """Return text with everything escaped that LaTeX would read as a command."""
    return "".join(_LATEX.get(character, character) for character in text)


def _markdown(text: str) -> str:
    for character in "\\|*_`<":
        text = text.replace(character, f"\\{character}")
    return text


def _mean_fields(key: str, cell: Cell) -> dict[str, Any]:
    fields: dict[str, Any] = {f"{key}/mean": cell.value}
    if cell.summary is not None:
        fields |= {f"{key}/{part}": getattr(cell.summary, part) for part in SUMMARY_PARTS}
        fields |= {f"{key}/best": int(cell.best), f"{key}/tied": int(cell.tied)}
        if cell.unlike is not None:
            fields[f"{key}/unlike"] = int(cell.unlike)
    return fields


def _latex_groups(columns: Sequence[Column]) -> list[str]:
    """Return the line of groups above the headers, with its rules; nothing without groups."""
    if not any(column.group for column in columns):
        return []
    cells, rules, position = [""], [], 2
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        cells.append(
            rf"\multicolumn{{{count}}}{{c}}{{{latex(group)}}}" if group else " & " * (count - 1)
        )
        if group:
            rules.append(rf"\cmidrule(lr){{{position}-{position + count - 1}}}")
        position += count
    return [" & ".join(cells) + r" \\", " ".join(rules)]
