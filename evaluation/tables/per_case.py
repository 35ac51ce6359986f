"""Scores of patients as files and tables: CSV and terminal.

pandas would write "nan" as an empty cell, and read a row that was cut off as a whole one.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from datamodules.layouts.conventions import REGIONS
from evaluation.metrics.empty_rules import BRATS, EMPTY_RULES, EmptyRule
from evaluation.metrics.means import column, nan_mean
from evaluation.metrics.scores import is_metric
from files import write_atomically

Row = Mapping[str, Any]

HEADERS = ("Region", "Dice mean ± sd", "Dice median", "HD95 mean (mm)", "HD95 median (mm)")
# Means of measures that only a test takes: header and decimals.
FURTHER = {
    "nsd": ("NSD", 3),
    "sensitivity": ("Sens.", 3),
    "precision": ("Prec.", 3),
    "volume_error_ml": ("Volume error (ml)", 1),
    "lesion_dice": ("Lesion Dice", 3),
    "lesion_hd95": ("Lesion HD95 (mm)", 2),
}
EXPLAINED = (
    "means; NSD: surface Dice at 1 mm; volume error: predicted minus reference; lesions as in "
    "BraTS 2023 (3 dilations, 50 mm3, 0 / 374 mm)"
)


def complete_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file in which every cell is a number; none of a damaged file."""
    try:
        rows = read_csv(file)
    except (OSError, ValueError, TypeError, csv.Error):
        return []
    return [row for row in rows if all(isinstance(value, float) for value in row.values())]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows under a temporary name and rename it: the file is never half there.

    Columns stand in the order in which the rows first name them; a row without a column leaves it
    empty. Floats are written so that reading gives the same float.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_csv(
    path: Path, text: Sequence[str] = ("case_id", "doubts", "empty_rule")
) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, numbers as floats, without their empty cells.

    Args:
        path: the file.
        text: columns that stay text even where they look like a number.

    Raises:
        ValueError: naming a row with too few or too many cells, as of a file that was cut off.
    """
    with path.open(newline="", encoding="utf-8") as handle:
        found = []
        for number, row in enumerate(csv.DictReader(handle, strict=True), start=2):
            if None in row or None in row.values():
                raise ValueError(f"row {number} is broken")
            cells = {name: value for name, value in row.items() if value}
            found.append({name: v if name in text else _number(v) for name, v in cells.items()})
        return found


def score_table(rows: Sequence[Row], title: str = "", note: str | None = None) -> RenderableType:
    """Return the scores of patients, a line a region, for the terminal.

    Measures that only a test takes stand in a second part, so that both fit 80 columns.

    Args:
        rows: one a patient, ``dice/WT`` or ``WT`` alone, and what else was measured.
        title: above the table.
        note: below it, such as "selected on these patients".
    """
    headers, lines = _lines(rows)
    first = min(len(HEADERS), len(headers))
    places = [list(range(first))]
    if len(headers) > first:
        places.append([0, *range(first, len(headers))])
    caption = "\n".join(_footnotes(rows, note))
    parts = []
    for index, columns in enumerate(places):
        table = Table(
            title=title if title and index == 0 else None,
            caption=caption if index == len(places) - 1 else None,
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            min_width=78,  # the rule for empty regions on one line
        )
        for place in columns:
            table.add_column(headers[place], justify="right" if place else "left")
        for line in lines:
            cells = [line[place] for place in columns]
            table.add_row(*cells, end_section=line[0] == lines[-2][0])
        parts.append(table)
    return Group(*parts)


SCOPES = {"slices/": "selected slices", "": "whole volumes"}


def slice_table(rows: Sequence[Row], title: str = "") -> Table:
    """Return the scores of the 2D study: every region on selected slices and on whole volumes.

    Args:
        rows: one a patient: ``slices/dice/WT`` and ``slices/hd95/WT`` are means over the patient's
            selected slices, ``dice/WT`` and ``hd95/WT`` those of its volume; either may be absent,
            and so may the other regions.
        title: above the table.
    """
    rule = rule_of(rows)
    measured = [
        f"{prefix}{metric}/{region}"
        for prefix in SCOPES
        for metric in ("dice", "hd95")
        for region in REGIONS
    ]
    shown = [{name: row[name] for name in measured if name in row} for row in rows]
    regions = [name for name in REGIONS if any(one.endswith(name) for row in shown for one in row)]
    volumes = any(f"dice/{region}" in row for row in shown for region in regions)
    notes = [
        f"{_counted_cases(rows)}, slices averaged within each case",
        f"slices {rule.of_slices()}",
        *([f"volumes {rule}"] if volumes else []),
        *_uncounted(shown),
    ]
    table = Table(
        title=title or None,
        caption="\n".join(notes),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        min_width=84,
    )
    several = len(regions) > 1
    table.add_column("Region" if several else "Whole tumour")
    for header in ("Dice % mean ± sd", "median", "HD95 mm mean ± sd", "median"):
        table.add_column(header, justify="right")
    for prefix, scope in SCOPES.items():
        for region in regions:
            dices = [100 * value for value in _values(rows, f"{prefix}dice", region)]
            distances = _values(rows, f"{prefix}hd95", region)
            name = f"{region}, {scope}" if several else scope
            if dices:
                table.add_row(name, *_percent_cells(dices), *_percent_cells(distances))
    return table


def mean_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean of every metric over the patients that have a value, NaN where none has."""
    names = dict.fromkeys(name for row in rows for name in row if is_metric(name))
    return {name: nan_mean(column(rows, name)) for name in names}


def rule_of(rows: Sequence[Row]) -> EmptyRule:
    """Return the rule by which rows were scored; ``brats`` in older files, which name none."""
    return EMPTY_RULES[next((row["empty_rule"] for row in rows if "empty_rule" in row), BRATS.name)]


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


def _lines(rows: Sequence[Row]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the headers and the cells of every region and of the mean over the regions."""
    measured = {name.partition("/")[0] for name in _names(rows)}
    further = [metric for metric in FURTHER if metric in measured]
    lines = []
    for region in (*_regions(rows), "mean"):
        line = [region, *_dice_cells(_values(rows, "dice", region))]
        if "hd95" in measured:
            distances = _values(rows, "hd95", region)
            line += [f"{nan_mean(distances):.2f}", f"{_median(distances):.2f}"]
        for metric in further:
            line.append(f"{nan_mean(_values(rows, metric, region)):.{FURTHER[metric][1]}f}")
        lines.append([cell.replace("nan", "n/a") for cell in line])
    headers = HEADERS if "hd95" in measured else HEADERS[:3]
    return [*headers, *(FURTHER[metric][0] for metric in further)], lines


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _regions(rows: Sequence[Row]) -> list[str]:
    """Return the regions that rows hold, in their usual order."""
    named = {name.rpartition("/")[2] for name in _names(rows)}
    return [region for region in REGIONS if region in named] or list(REGIONS)


def _values(rows: Sequence[Row], metric: str, region: str) -> list[float]:
    """Return the values of the patients that have one; ``mean`` is their mean over regions."""
    if region == "mean":
        regions = _regions(rows)
        own = [
            [value for name in regions for value in _values([row], metric, name)] for row in rows
        ]
        return [fmean(values) for values in own if values]
    names = [f"{metric}/{region}", *([region] if metric == "dice" else [])]
    return [value for name in names for value in column(rows, name)]


def _median(values: Sequence[float]) -> float:
    return median(values) if values else math.nan


def _dice_cells(values: Sequence[float]) -> list[str]:
    if not values:
        return ["n/a", "n/a"]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return [f"{fmean(values):.3f}{spread}", f"{median(values):.3f}"]


def _counted_cases(rows: Sequence[Row]) -> str:
    """Return the number of rows as cases: several of them may be examinations of one patient."""
    return f"{len(rows)} case{'' if len(rows) == 1 else 's'}"


def _footnotes(rows: Sequence[Row], note: str | None) -> list[str]:
    notes = [_counted_cases(rows), str(rule_of(rows))]
    if any(name.partition("/")[0] in FURTHER for name in _names(rows)):
        notes.append(EXPLAINED)
    return [*notes, *_uncounted(rows), *([note] if note else [])]


def _uncounted(rows: Sequence[Row]) -> list[str]:
    """Return how many cases each mean counts, where the rule leaves some without a score."""
    short: dict[str, list[str]] = {}
    for name in _names(rows):
        if is_metric(name) and len(column(rows, name)) < sum(name in row for row in rows):
            short.setdefault(str(len(column(rows, name))), []).append(name)
    return [f"cases counted: {number} in {', '.join(names)}" for number, names in short.items()]


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
