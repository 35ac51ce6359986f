"""Put the tested systems of a benchmark side by side."""

from dataclasses import replace
from pathlib import Path

from errors import InputError
from evaluation.statistics.comparison import patients_of
from studies.benchmarks.scores import BenchmarkScores, read_benchmark_scores
from studies.benchmarks.tables import provenance
from studies.runs.run import run_named
from studies.scores.side_by_side import SideBySide, side_by_side
from studies.settings.command_line import ROOT

BENCHMARK_FILES = "experiments/benchmarks"
NAMED_AT_MOST = 6


def benchmark_systems(
    folder: Path, reference: str | None = None
) -> tuple[BenchmarkScores, SideBySide, list[str]]:
    """Read a benchmark's folder and put its tested systems side by side.

    Args:
        folder: folder of the benchmark, with ``plan.json``.
        reference: system the others are compared with; None: the benchmark's.

    Returns:
        All scores, the comparison of the systems' own tests, and sentences on missing tests.

    Raises:
        InputError: when nothing is tested yet, or a file is damaged.
    """
    scores = read_benchmark_scores(folder)
    plan = scores.plan
    tested = [
        item for cell, item in zip(scores.cells, scores.tested, strict=True) if not cell["variant"]
    ]
    if not tested:
        raise InputError(
            f"{folder} has no tested system yet, looked for from {Path.cwd()}: run `lightning "
            f"benchmark {plan.get('file', 'FILE')}` to its end first, or change to the folder in "
            "which it was run."
        )
    patients = {name: patients_of(rows) for name, rows in scores.rows().items()}
    uneven = len({frozenset(found) for found in patients.values()}) > 1
    planned = plan.get("reference")
    compared = side_by_side(
        tested,
        reference or (planned if planned in patients else None),
        different_patients=uneven,
        different=plan.get("allow_different", []),
    )
    remarks = []
    if uneven:
        shared = set.intersection(*patients.values())
        remarks.append(f"Compared are the {len(shared)} patients that all systems were tested on.")
    remarks += _untested(scores)
    own = provenance(scores)
    added = [remark for remark in compared.provenance.remarks if remark not in own.remarks]
    own = replace(own, remarks=[*added, *own.remarks])
    return scores, replace(compared, provenance=own), remarks


def refuse_unrun(path: Path, runs_dir: Path) -> None:
    """Refuse a path of a benchmark that was not run yet, or of its file instead of its folder.

    Raises:
        InputError: with the command that runs the benchmark, or the folder of its results.
    """
    is_file = path.suffix == ".yaml"
    if path.resolve().parent.name != "benchmarks" or (path.is_file() and not is_file):
        return
    if (path / "per_case.csv").is_file() or run_named(str(path), runs_dir) is not None:
        return
    file = f"{BENCHMARK_FILES}/{path.name}.yaml"
    shipped = any((place / file).is_file() for place in (Path(), ROOT))
    folder = Path("benchmarks", path.stem) if is_file else path
    if (folder / "plan.json").is_file():
        raise InputError(
            f"{path} is the file of a benchmark: name its folder, `lightning report {folder}`."
        )
    shown = path if is_file else file if shipped else "FILE"
    raise InputError(
        f"{folder} holds no benchmark yet, looked for from {Path.cwd()}: run `lightning benchmark "
        f"{shown}` first, which also writes its page."
    )


def _untested(scores: BenchmarkScores) -> list[str]:
    """Name the planned tests that are not finished, and the damaged ones."""
    damaged = [f"Left out: {reason}" for reason in scores.damaged]
    lacking = []
    for cell in scores.plan["cells"]:
        if not Path(cell["per_case"]).is_file():
            fold = "" if cell["fold"] in ("", None) else f"fold {cell['fold']}"
            details = filter(None, [fold, f"seed {cell['seed']}", cell["variant"]])
            lacking.append(f"{cell['system']} ({', '.join(details)})")
    if not lacking:
        return damaged
    more = " and others" if len(lacking) > NAMED_AT_MOST else ""
    return [f"Not tested, so left out: {', '.join(lacking[:NAMED_AT_MOST])}{more}.", *damaged]
