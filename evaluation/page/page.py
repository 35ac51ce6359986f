"""One self-contained HTML page: tables, pictures, a table of patients, a viewer; no network."""

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from datamodules.layouts.conventions import REGIONS
from evaluation.figures.overlay import COLOURS, WIDTHS
from evaluation.statistics.columns import ScoreColumn
from evaluation.tables.formats import EMPTY, to_html
from evaluation.tables.systems import BenchmarkTable, printed

ASSETS = Path(__file__).resolve().parent / "assets"
SHOWN_FIRST = ("dice", "hd95", "slices/dice", "slices/hd95")


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page.

    Args:
        source: the file as a ``data:`` address.
        width: in pixels of the page.
        height: likewise.
        text: what it shows, for the caption and for screen readers.
    """

    source: str
    width: int
    height: int
    text: str

    @classmethod
    def of(cls, file: Path, text: str, density: float = 1.3) -> "Picture":
        """Read a PNG file.

        Args:
            file: the PNG.
            text: what it shows.
            density: its pixels for one of the page, so that it is sharp.
        """
        content = file.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # in the first chunk, always IHDR
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        return cls(source, round(width / density), round(height / density), text)


@dataclass(frozen=True)
class Report:
    """The content of the page.

    Args:
        title: above everything.
        provenance: origin of the numbers, a sentence each; no table repeats one.
        synthetic: whether the patients are phantoms.
        tables: tables of means.
        further: tables of the means of further measures.
        statistics: medians, intervals and tests.
        ways: the same for ways of testing.
        distributions: box plots and paired plots.
        curves: learning curves of the trainings.
        calibration_table: errors of every system; None where nothing was measured.
        calibration: reliability diagrams.
        columns: columns of the table of patients.
        rows: system to the rows of ``per_case.csv``; of several runs each with its ``run``.
        cases: worst, median and best with their pictures.
        ranking: the score by which they were chosen.
        viewed: the same patients as ``viewer_volumes.packed`` gives them.
        remarks: what is missing or doubtful, a sentence each.
        made: when and with what the page was made.
    """

    title: str
    provenance: Sequence[str]
    synthetic: bool
    tables: Sequence[BenchmarkTable]
    statistics: Sequence[BenchmarkTable]
    distributions: Sequence[Picture]
    columns: Sequence[ScoreColumn]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    further: Sequence[BenchmarkTable] = ()
    ways: Sequence[BenchmarkTable] = ()
    curves: Sequence[Picture] = ()
    calibration_table: BenchmarkTable | None = None
    calibration: Sequence[Picture] = ()
    cases: Sequence[tuple[str, Picture]] = ()
    ranking: str = ""
    viewed: Sequence[Mapping[str, Any]] = ()
    remarks: Sequence[str] = field(default_factory=list)
    made: str = ""


def shared_footnotes(
    tables: Sequence[BenchmarkTable], stated: Sequence[str] = ()
) -> tuple[list[str], list[BenchmarkTable]]:
    """Return the footnotes that all tables share, and the tables with their remaining ones.

    A table without rows states why it has none, and takes no part in this.

    Args:
        tables: the tables, shown below each other.
        stated: sentences that stand above them already.
    """
    kept = [[note for note in table.footnotes if note not in stated] for table in tables]
    whole = [own for table, own in zip(tables, kept, strict=True) if table.rows]
    several = whole if len(whole) > 1 else []
    shared = [note for note in next(iter(several), []) if all(note in own for own in several)]
    return shared, [
        replace(table, footnotes=[note for note in own if note not in shared])
        for table, own in zip(tables, kept, strict=True)
    ]


def to_page(report: Report) -> str:
    """Return the page as one HTML text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def group(tables: Sequence[BenchmarkTable]) -> dict[str, Any]:
        shared, own = shared_footnotes(tables, report.provenance)
        return {"notes": shared, "tables": [Markup(to_html(table)) for table in own]}

    def asset(name: str) -> Markup:
        return Markup((ASSETS / name).read_text(encoding="utf-8"))

    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined
    )
    families = dict.fromkeys(column.family for column in report.columns)
    labels = {column.family: column for column in report.columns}
    regions = [
        {"name": name, "colour": COLOURS[name], "width": WIDTHS[name]}
        for name in REGIONS  # the bit of a mask is the place here
        if any(name in case["regions"] for case in report.viewed)
    ]
    volumes = json.dumps({"cases": list(report.viewed), "regions": regions})
    return environment.get_template("report.html.jinja").render(
        report=report,
        css=asset("report.css"),
        tables_js=asset("tables.js"),
        viewer_js=asset("viewer.js"),
        sections=_sections(report),
        results=group(report.tables),
        further=group(report.further),
        statistics=group(report.statistics),
        ways=group(report.ways),
        calibration=group([report.calibration_table] if report.calibration_table else []),
        measures=[
            (
                family,
                ("slices: " if labels[family].slices else "") + labels[family].measure.label,
                family in SHOWN_FIRST,
            )
            for family in families
        ],
        several=any(_run_of(row) for found in report.rows.values() for row in found),
        rows=[
            {
                "case_id": row["case_id"],
                "system": name,
                "run": _run_of(row),
                "cells": Markup("".join(_cell(row, column) for column in report.columns)),
            }
            for name, found in report.rows.items()
            for row in found
        ],
        regions=regions,
        viewer=Markup(volumes.replace("<", "\\u003c")),  # cannot end the script it stands in
    )


def _sections(report: Report) -> list[tuple[str, str]]:
    """Return anchor and name of every section that is there."""
    every = [
        ("results", "Results", True),
        ("statistics", "Statistics", True),
        ("distributions", "Distributions", True),
        ("curves", "Learning curves", bool(report.curves)),
        ("calibration", "Calibration", bool(report.calibration)),
        ("patients", "Patients", True),
        ("cases", "Worst, median, best", bool(report.cases)),
        ("viewer", "Viewer", bool(report.viewed)),
    ]
    return [(anchor, name) for anchor, name, there in every if there]


def _run_of(row: Mapping[str, Any]) -> str:
    """Name the run of a row, where a system has several."""
    named = {key: row[key] for key in ("run", "seed") if key in row}
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else str(value)
        for key, value in named.items()
    )


def _cell(row: Mapping[str, Any], column: ScoreColumn) -> str:
    """Return a cell of the table of patients; a share carries a bar."""
    value = row.get(column.key)
    if not isinstance(value, float) or math.isnan(value):
        return f'<td data-v="">{EMPTY if value is None else "n/a"}</td>'
    value = abs(value) if column.measure.magnitude else value
    text = escape(printed(value, column.measure.decimals))
    bar = "" if column.measure.unit else f' class="share" style="--v: {value:.3f}"'
    number = repr(value).replace("inf", "Infinity")  # as JavaScript reads it
    return f'<td data-v="{number}"{bar}>{text}</td>'
