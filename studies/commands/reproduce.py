"""``lightning reproduce RUN``: train a run again from its files, and compare the scores."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_parser import CommandParser, at_home
from errors import InputError
from files import cores
from lightning_modules.weights.checkpoints import read_checkpoint
from outputs import Outputs
from studies.commands.benchmark import report
from studies.jobs.display import Display
from studies.jobs.engine import Engine, study_folder
from studies.jobs.graph import Job, JobGraph
from studies.jobs.placement import local_workers
from studies.runs.recreation import Difference, differences, find_run, outdated, recreate
from studies.runs.run import Run
from studies.runs.unused_options import check_forwarded
from studies.scores.tested import read_scores
from studies.settings.command_line import CommandLine
from studies.training.fit_parser import make_planner
from studies.training.lightning_cli import quiet

Scores = dict[tuple[str, str], float]


def main(words: Sequence[str]) -> int:
    """Print what is different, train and test again, compare; return 1 if scores differ."""
    options, rest = _parse(words)
    quiet()
    run = find_run(options.run, options.source)
    line = CommandLine.parse(rest)
    if line.configs or any(
        name.partition(".")[0] not in ("data", "trainer") for name, _ in line.options
    ):
        raise InputError(
            "A run is trained again as it was: only --data.* and --trainer.* can be given, to set "
            "where its data and devices are now."
        )
    check_forwarded(line)
    study = options.out or options.runs_dir / "studies" / f"{run.experiment}-{run.id}"
    with study_folder(study, "reproduction"):
        file = recreate(run, study / "configs")
        planner = make_planner(options.runs_dir)
        plan = planner.plan(CommandLine([str(file)], line.options))
        if plan.run.folder.resolve() == run.folder.resolve():
            raise InputError(f"{options.runs_dir} is where the run lies: give another --runs_dir.")
        changed = differences(run, plan, planner.parse)
        _print_differences(changed)
        graph = JobGraph()
        graph.add_training(plan)
        tested = "test_scores" in run.manifest()
        if tested:
            _tested(run)  # a damaged table is named before anything is trained
            graph.add_test(plan)
        jobs = graph.ordered()
        for job in jobs:
            job.threads = _threads(run, job.run)
        move_outdated(jobs)
        with Display() as display:
            engine = Engine(study, jobs, local_workers(1, jobs), display)
            if not engine.run():
                return report(engine, whole=False)
        compared = compare(run, plan.run)
        verdict = max(compared.values(), default=0.0) <= options.tolerance
        record: dict[str, Any] = {
            "run": str(run.folder),
            "reproduction": str(plan.run.folder),
            "same_identity": run.id == plan.run.id,
            "differences": [vars(difference) for difference in changed],
            "largest_difference": compared,
            "same_weights": same_weights(run, plan.run),
            "tolerance": options.tolerance,
            "reproduced": verdict,
        }
        write_record(study / "reproduction.json", record)
    _print_comparison(record, tested=tested)
    return 0 if verdict else 1


def move_outdated(jobs: Sequence[Job]) -> None:
    """Move aside earlier reproductions with other versions or on another machine.

    Raises:
        InputError: when another process is training one of them.
    """
    for job in jobs:
        found = outdated(job.plan) if job.kind == "fit" else []
        if found:
            changes = ", ".join(f"{one.what} {one.then} then, {one.now} now" for one in found)
            print(
                f"Note: {job.run.folder} was trained in another environment ({changes}): it is "
                "moved aside and trained again.",
                flush=True,
            )
            job.run.discard()


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Write a reproduction as JSON; an infinite difference, which JSON lacks, becomes null."""
    largest = {
        name: value if math.isfinite(value) else None
        for name, value in record["largest_difference"].items()
    }
    text = json.dumps({**record, "largest_difference": largest}, indent=2, allow_nan=False)
    Outputs(file.parent, "--out").settle(file.name, f"{text}\n")


def compare(run: Run, again: Run) -> dict[str, float]:
    """Return the largest difference of every score, over patients, between two trainings.

    Differences are absolute for scores up to 1, and relative to the larger score above, in mm or
    ml. If only one training has a score, the difference is infinite.
    """
    largest: dict[str, float] = {}
    pairs = [
        (_validation(run), _validation(again)),
        (_tested(run), _tested(again)),
    ]
    for then, now in pairs:
        for key in then.keys() | now.keys():
            name = key[1]
            if key not in then or key not in now:
                largest[name] = float("inf")
                continue
            one, other = then[key], now[key]
            both_empty = one != one and other != other  # NaN on both sides
            apart = 0.0 if both_empty else abs(one - other) / max(1.0, abs(one), abs(other))
            apart = float("inf") if apart != apart else apart
            largest[name] = max(largest.get(name, 0.0), apart)
    return dict(sorted(largest.items()))


def same_weights(run: Run, again: Run) -> bool:
    """Whether both best checkpoints hold the same weights to the last bit."""
    import torch

    one, other = (read_checkpoint(which.best_checkpoint)["state_dict"] for which in (run, again))
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def _validation(run: Run) -> Scores:
    manifest = run.manifest()
    rows = manifest.get("validation_cases", [])
    scores = {("", name): float(value) for name, value in manifest.get("scores", {}).items()}
    return scores | _scores(rows, "val/dice/")


def _tested(run: Run) -> Scores:
    file = run.folder / "per_case.csv"
    if not file.is_file() or "test_scores" not in run.manifest():
        return {}
    return _scores(read_scores(file), "test/")


def _scores(rows: Sequence[Mapping[str, Any]], prefix: str) -> Scores:
    return {
        (str(row["case_id"]), f"{prefix}{name}"): float(value)
        for row in rows
        for name, value in row.items()
        if name != "case_id" and isinstance(value, int | float)
    }


def _threads(original: Run, job: Run) -> int | None:
    """Return the threads of the original training, which affect the last bits on a processor."""
    folder = original.folder.resolve().parents[1] / job.experiment / job.id
    manifest = Run(job.experiment, job.id, folder).manifest() or original.manifest()
    threads = manifest.get("hardware", {}).get("threads")
    return min(int(threads), cores()) if threads else None


def _print_differences(found: list[Difference]) -> None:
    if not found:
        print(
            "Nothing is different: data, settings, versions, hardware, devices, revision.",
            flush=True,
        )
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("different", "then", "now", box=box.SIMPLE_HEAD)
    for difference in found:
        table.add_row(difference.what, str(difference.then), str(difference.now))
    Console(highlight=False).print(table)


def _print_comparison(record: dict[str, Any], *, tested: bool) -> None:
    scores = record["largest_difference"]
    for name, value in scores.items():
        print(f"  {name:<28} {'equal' if value == 0 else f'differs by at most {value:.3g}'}")
    if not tested:
        print("The run was never tested, so validation alone was compared.")
    weights = "equal to the last bit" if record["same_weights"] else "different"
    print(f"Weights of the best checkpoints: {weights}.")
    verdict = "reproduced" if record["reproduced"] else "NOT reproduced"
    largest = max(scores.values(), default=0.0)
    print(
        f"{record['run']}: {verdict}, largest difference {largest:.3g}, tolerance "
        f"{record['tolerance']:g} (absolute of Dice and its like, relative of mm and ml)."
    )


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no difference: expected 0 or more")
    return value


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser(
        prog="lightning reproduce",
        description="Train and test a run again from its files, and compare the scores.",
        epilog="--data.root and other --data.*, --trainer.* set where data and devices are now.",
        examples=["lightning reproduce fusion"],
    )
    parser.add_argument("run", help="folder of a run, experiment/id, or an experiment's newest run")
    parser.add_argument(
        "--source", type=at_home, default=Path("runs"), help="folder of all runs (default: runs)"
    )
    parser.add_argument(
        "--runs_dir",
        type=at_home,
        default=Path("reproductions"),
        help="where it is trained (default: reproductions)",
    )
    parser.add_argument(
        "--out",
        type=at_home,
        help="folder of the comparison and its logs (default: RUNS_DIR/studies/EXPERIMENT-ID)",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-3,
        help="largest difference that counts as reproduced (default: 0.001)",
    )
    return parser.parse_known_args(list(words))
