"""Scores of patients as files and tables: CSV, terminal, Markdown."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from rich import box
from rich.table import Table

from datamodules.layouts import REGIONS
from evaluation.metrics import BRATS, EmptyRule

Row = Mapping[str, Any]

HEADERS = ("Region", "Dice mean ± sd", "Dice median", "HD95 mean (mm)", "HD95 median (mm)")


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows under a temporary name and rename it: the file is never half there.

    Columns stand in the order in which the rows first name them; a row without a column leaves it
    empty. Floats are written so that reading gives the same float.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_csv(path: Path, text: Sequence[str] = ("case_id", "doubts")) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, numbers as floats, without their empty cells.

    Args:
        path: the file.
        text: columns that stay text even where they look like a number.
    """
    with path.open(newline="", encoding="utf-8") as handle:
        return [
            {
                name: value if name in text else _number(value)
                for name, value in row.items()
                if value not in ("", None)
            }
            for row in csv.DictReader(handle)
        ]


def score_table(
    rows: Sequence[Row], title: str = "", note: str | None = None, rule: EmptyRule = BRATS
) -> Table:
    """Return the scores of patients, a line a region, for the terminal.

    Args:
        rows: one a patient, ``dice/WT`` or ``WT`` alone, and ``hd95/WT`` in mm where it was taken.
        title: above the table.
        note: below it, what a reader has to know: "selected on these patients".
        rule: for empty regions, named below the table.
    """
    table = Table(
        title=title or None,
        caption="\n".join(_footnotes(rows, note, rule)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=78,  # the rule for empty regions on one line
    )
    headers, lines = _lines(rows)
    for header in headers:
        table.add_column(header, justify="left" if header == "Region" else "right")
    for line in lines:
        table.add_row(*line, end_section=line[0] == lines[-2][0])
    return table


SCOPES = {"slices/": "selected slices", "": "whole volumes"}


def slice_table(
    rows: Sequence[Row], title: str = "", note: str | None = None, rule: EmptyRule = BRATS
) -> Table:
    """Return the scores of the 2D study: whole tumour on selected slices and on whole volumes.

    Args:
        rows: one a patient: ``slices/dice/WT`` and ``slices/hd95/WT`` are means over the patient's
            selected slices, ``dice/WT`` and ``hd95/WT`` those of his volume; either may be absent.
        title: above the table.
        note: below it.
        rule: for empty volumes, named below the table.
    """
    volumes = any("dice/WT" in row for row in rows)
    notes = [
        f"{len(rows)} patient{'' if len(rows) == 1 else 's'}, slices averaged within a patient",
        f"slices {replace(rule, hd95_one=float('nan'))}".replace("nan mm", "the slice's diagonal"),
        *([f"volumes {rule}"] if volumes else []),
        *([note] if note else []),
    ]
    table = Table(
        title=title or None,
        caption="\n".join(notes),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=84,
    )
    for header in ("Whole tumour", "Dice % mean ± sd", "median", "HD95 mm mean ± sd", "median"):
        table.add_column(header, justify="left" if header == "Whole tumour" else "right")
    for prefix, scope in SCOPES.items():
        dices = [100 * value for value in _values(rows, f"{prefix}dice", "WT")]
        distances = _values(rows, f"{prefix}hd95", "WT")
        if dices:
            table.add_row(scope, *_percent_cells(dices), *_percent_cells(distances))
    return table


def mean_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean over patients of every Dice and HD95 column."""
    columns = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in columns if "dice/" in name or "hd95/" in name]
    return {name: fmean(float(row[name]) for row in rows if name in row) for name in names}


def system_table(systems: Sequence[Row], title: str = "") -> Table:
    """Return systems side by side: parameters and whole-tumour scores, a line a system.

    Args:
        systems: each with ``system``, ``parameters`` (all, trained), ``validation`` Dice, and
            where it was tested ``test``: the means of ``per_case.csv``.
        title: above the table.
    """
    table = Table(
        title=title or None,
        caption="Whole tumour: Dice in %, HD95 in mm; val and test on selected slices",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("System", no_wrap=True)
    scores = ("val Dice", "test Dice", "test HD95", "volume Dice")
    for header in ("parameters", "trained", "share", *scores):
        table.add_column(header, justify="right", no_wrap=header in ("parameters", "trained"))
    for system in systems:
        counts, test = system["parameters"], system.get("test") or {}
        share = 100 * counts["trained"] / max(1, counts["all"])
        cells = [
            f"{counts['all']:,}",
            f"{counts['trained']:,}",
            f"{share:.1f} %",
            f"{100 * system['validation']:.2f}",
            _cell(test.get("slices/dice/WT"), 100),
            _cell(test.get("slices/hd95/WT"), 1),
            _cell(test.get("dice/WT"), 100),
        ]
        table.add_row(str(system["system"]), *cells, style="bold" if system.get("this") else "")
    return table


def _cell(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.2f}"


def _percent_cells(values: Sequence[float]) -> list[str]:
    if not values:
        return ["n/a", "n/a"]
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return [f"{fmean(values):.2f}{spread}", f"{median(values):.2f}"]


def markdown_table(rows: Sequence[Row], note: str | None = None, rule: EmptyRule = BRATS) -> str:
    """Return the table of :func:`score_table` as Markdown."""
    headers, lines = _lines(rows)
    ruler = [":--", *["--:"] * (len(headers) - 1)]
    table = [f"| {' | '.join(cells)} |" for cells in (headers, ruler, *lines)]
    return "\n".join([*table, "", *(f"{text}  " for text in _footnotes(rows, note, rule))]) + "\n"


def _lines(rows: Sequence[Row]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the headers and the cells of every region and of the mean over the regions."""
    named = {name.rpartition("/")[2] for row in rows for name in row}
    regions = [region for region in REGIONS if region in named] or REGIONS
    dices = {region: _values(rows, "dice", region) for region in regions}
    distances = {region: _values(rows, "hd95", region) for region in regions}
    for scores in (dices, distances):
        scores["mean"] = [fmean(values) for values in zip(*scores.values(), strict=True)]
    measured = bool(distances["mean"])
    lines = []
    for region, values in dices.items():
        line = [region, *_dice_cells(values)]
        if measured:
            line += [f"{fmean(distances[region]):.2f}", f"{median(distances[region]):.2f}"]
        lines.append(line)
    return HEADERS if measured else HEADERS[:3], lines


def _values(rows: Sequence[Row], metric: str, region: str) -> list[float]:
    names = [f"{metric}/{region}", *([region] if metric == "dice" else [])]
    return [float(row[name]) for row in rows for name in names if name in row]


def _dice_cells(values: Sequence[float]) -> list[str]:
    if not values:
        return ["n/a", "n/a"]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return [f"{fmean(values):.3f}{spread}", f"{median(values):.3f}"]


def _footnotes(rows: Sequence[Row], note: str | None, rule: EmptyRule) -> list[str]:
    counted = f"{len(rows)} patient{'' if len(rows) == 1 else 's'}"
    return [counted, str(rule), *([note] if note else [])]


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
