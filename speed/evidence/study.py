"""A benchmark trained seed by seed, for studies that take longer than a machine is at hand.

A seed that is done is one file of scores, small enough to be kept; all that lie in a folder are
judged together. Within a seed the benchmark itself goes on where it was stopped; the minutes in its
file are those of the last call.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evaluation.metrics.means import column, nan_mean
from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import compare
from evaluation.tables.per_case import read_csv
from speed.record import run_cli, write_record

Rows = list[dict[str, Any]]
Seeds = Mapping[int, Mapping[str, Mapping[str, Any]]]  # by seed and system: `runs`, `patients`
KEPT = ("case_id", "dice/", "hd95/", "volume_ml/", "slices/dice/", "slices/hd95/")


def run_study(
    file: Mapping[str, Any],
    judge: Callable[[Seeds], dict[str, Any]],
    description: str,
    out: Path,
    of_run: Callable[[Path], Mapping[str, Any]] = lambda folder: {},
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    """Train and test what is left to do, seed by seed, then judge all seeds that are done.

    Options that are not its own, such as --data.root, go to the benchmark, which runs in --place.

    Args:
        file: content of the benchmark's file.
        judge: returns the figures, and under ``holds`` whether each statement holds.
        description: what ``--help`` says.
        out: folder of the results, unless --out names another.
        of_run: returns what else is kept of a run's folder.
        seeds: trained unless --seeds names others.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--place", type=Path, required=True, help="folder of the benchmark")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=list(seeds), help="none: only judge"
    )
    parser.add_argument("--out", type=Path, default=out)
    options, others = parser.parse_known_args()
    options.place.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    written = options.place / f"{file['name']}.yaml"
    written.write_text(yaml.safe_dump(dict(file), sort_keys=False))
    for seed in options.seeds:
        words = ["benchmark", written.name, "--seeds", str(seed), *others]
        started = time.monotonic()
        run_cli(words, options.place, "the benchmark")
        minutes = round((time.monotonic() - started) / 60, 1)
        plan = json.loads((options.place / "benchmarks" / file["name"] / "plan.json").read_text())
        found: dict[str, dict[str, Any]] = {}
        for cell in plan["cells"]:
            folder = options.place / cell["folder"]
            of_system = found.setdefault(cell["system"], {"runs": {}, "patients": []})
            of_system["runs"][folder.name] = of_run(folder)
            of_system["patients"] += kept(options.place / cell["per_case"], folder)
        of_seed = {"minutes_of_last_call": minutes, "systems": found}
        write_record(options.out / f"seed-{seed}.json", of_seed)
    files = sorted(options.out.glob("seed-*.json"))
    figures = judge({int(one.stem[5:]): json.loads(one.read_text())["systems"] for one in files})
    for statement, holds in figures["holds"].items():
        print(f"{'yes' if holds else 'NO '}  {statement}")
    write_record(options.out / "all.json", figures)


def kept(table: Path, folder: Path) -> Rows:
    """Return the columns of a run's table that a study keeps, rounded, with run and patient."""
    patients = json.loads((folder / "split.json").read_text())["patients"]
    return [
        {"run": folder.name, "patient": patients[row["case_id"]]}
        | {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in row.items()
            if name.startswith(KEPT)
        }
        for row in read_csv(table)
    ]


def rows_of(seeds: Seeds) -> dict[str, Rows]:
    """Return the rows of every system over all seeds."""
    found: dict[str, Rows] = {}
    for systems in seeds.values():
        for name, one in systems.items():
            found.setdefault(name, []).extend(one["patients"])
    return found


def mean_of(rows: Rows, name: str) -> float:
    """Return the mean of a column over rows, rounded; rows without a value are left out."""
    return round(nan_mean(column(rows, name)), 4)


def means_of(rows: Mapping[str, Rows], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean of every column for every system."""
    return {
        system: {name: mean_of(found, name) for name in names} for system, found in rows.items()
    }


def tests_against(
    rows: dict[str, Rows], columns: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """Compare every system with a reference, paired over patients, corrected after Holm.

    Returns:
        Of every rival and column: the median over patients of rival minus reference, and p.
    """
    parsed = [one for one in map(ScoreColumn.parse, columns) if one is not None]
    return [
        {
            "rival": one.system,
            "column": one.column.key,
            "difference": round(one.difference, 4),
            "p_holm": round(one.p_holm, 5),
        }
        for one in compare(rows, parsed, reference)
    ]
