"""The `lightning compare` command: compare tested systems over the same patients."""

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from command_parser import CommandParser, at_home
from errors import InputError
from evaluation.figures.box_plots import comparison_png
from evaluation.statistics.comparison import METHODS
from evaluation.tables.formats import to_csv, to_latex, to_markdown, to_terminal
from evaluation.tables.systems import BenchmarkTable
from outputs import Outputs
from studies.scores.side_by_side import side_by_side
from studies.scores.tested import find_tested

FORMATS = ("terminal", "markdown", "latex", "csv")


def main(words: Sequence[str]) -> int:
    """Compare tested runs: print the table and the statistics, write both and a picture."""
    options = _parse(words)
    tested = [find_tested(word, options.runs_dir) for word in options.runs]
    compared = side_by_side(
        tested, options.reference, different_patients=options.allow_different_patients
    )
    systems = compared.systems
    if len(systems) < 2:
        raise InputError(
            f"Only {', '.join(systems)} is given: name at least two systems to compare, for "
            "instance `lightning compare dynunet fusion`."
        )
    columns = compared.columns(options.metrics)
    provenance = compared.provenance
    main_table = compared.table(columns, f"{len(systems)} systems, {provenance.cohort}")
    statistics = compared.statistics(columns)
    out = options.out or options.runs_dir.parent / "comparisons" / _folder_name(systems)
    title = f"{provenance.cohort}, {compared.counted_patients}"
    picture = out / "comparison.png"
    texts = _texts(main_table, statistics)
    outputs = Outputs(out, "--out")
    tables = [Path(word.partition("=")[2] or word) for word in options.runs]
    outputs.check([*texts, picture.name], [path for path in tables if path.is_file()])
    try:
        files = [outputs.write(name, text) for name, text in texts.items()]
        rows, reference = compared.rows, compared.reference
        draw = partial(comparison_png, rows, columns, reference, title=title)
        outputs.write(picture.name, draw)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}): give another folder with --out "
            "or make room."
        ) from error
    _show(options.format, main_table, statistics, [*files, picture])
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="lightning compare",
        description="Compare tested systems over the same patients: table, paired statistics, "
        "picture.",
        examples=["lightning compare fusion dynunet late_fusion --reference fusion"],
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder, experiment (newest finished run), experiment/id, or a per_case.csv "
        "file; NAME=RUN names it, and the same NAME twice is one system with several runs",
    )
    parser.add_argument("--reference", help="system the others are tested against; default: first")
    parser.add_argument(
        "--metrics",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        help="comma-separated, e.g. dice,nsd or slices/dice or dice/WT; default: dice,hd95",
    )
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="what is printed")
    parser.add_argument("--out", type=at_home, help="folder to write; default: comparisons/A-vs-B")
    parser.add_argument("--runs_dir", type=at_home, default=Path("runs"), help="folder of all runs")
    parser.add_argument(
        "--allow_different_patients",
        type=_boolean,
        default=False,
        metavar="true|false",
        help="compare the patients that all were tested on, instead of refusing",
    )
    options = parser.parse_args(list(words))
    if options.out is not None and options.out.is_file():
        raise InputError(f"--out {options.out} is a file: expected a folder for the results.")
    return options


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _folder_name(systems: Mapping[str, Any]) -> str:
    """Join the systems' names; if they are many or long, the first with a digest of all."""
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") for name in systems]
    whole = "-vs-".join(names)
    if len(names) <= 3 and len(whole) <= 100:
        return whole
    return f"{names[0][:60]}-vs-{len(names) - 1}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _texts(main_table: BenchmarkTable, statistics: Sequence[BenchmarkTable]) -> dict[str, str]:
    """Return the text of every file by file name."""
    tables = [main_table, *statistics]
    texts = {
        "comparison.md": "\n".join(map(to_markdown, tables)),
        "comparison.tex": "\n".join(map(to_latex, tables)),
        "comparison.csv": to_csv(main_table),
    }
    return texts | {f"statistics-{table.key}.csv": to_csv(table) for table in statistics}


def _shortened(tables: Sequence[BenchmarkTable]) -> list[BenchmarkTable]:
    """Return tables without repeated footnotes.

    The provenance of scores is kept below the first, the methods of the statistics below the last.
    """
    first, *others, last = tables
    shown_first = [note for note in first.footnotes if note not in METHODS]
    kept = [
        [note for note in table.footnotes if note not in shown_first] for table in (*others, last)
    ]
    kept[:-1] = [[note for note in notes if note not in kept[-1]] for notes in kept[:-1]]
    shown = zip((*others, last), kept, strict=True)
    return [first, *(replace(table, footnotes=notes) for table, notes in shown)]


def _show(
    form: str,
    main_table: BenchmarkTable,
    statistics: Sequence[BenchmarkTable],
    files: Sequence[Path],
) -> None:
    """Print the tables and the files' paths, which go to stderr unless the form is `terminal`."""
    if form == "terminal":
        from rich.console import Console

        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=110)
        for table in _shortened([main_table, *statistics]):
            console.print(to_terminal(table, console.width))
            console.print()
    else:
        writer = {"markdown": to_markdown, "latex": to_latex, "csv": to_csv}[form]
        print("\n".join(writer(table) for table in (main_table, *statistics)), end="")
    width = max(len(file.name) for file in files)
    for file in files:
        stream = sys.stdout if form == "terminal" else sys.stderr
        print(f"{file.name:<{width}}  {file}", file=stream)
