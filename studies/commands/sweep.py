"""``lightning sweep FILE``: the trials of a W&B sweep file, without an account."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from command_parser import CommandParser
from errors import InputError
from evaluation.tables.per_case import write_csv
from lightning_modules.callbacks.metrics_file import read_metrics
from outputs import Outputs
from studies.benchmarks.sweep_file import Sweep, read_sweep
from studies.commands.benchmark import report
from studies.jobs.cost_table import Trial, short_names
from studies.jobs.display import Display
from studies.jobs.engine import Engine, study_folder
from studies.jobs.graph import Job, JobGraph
from studies.jobs.placement import add_options, check_options, make_workers, share
from studies.runs.unused_options import check_forwarded
from studies.settings.command_line import CommandLine, add_dry_run, find_config
from studies.settings.unknown_names import placed
from studies.training.fit_parser import make_planner
from studies.training.lightning_cli import quiet


@dataclass(frozen=True)
class TrialJob:
    """A trial and the training it is."""

    trial: Trial
    job: Job


def main(words: Sequence[str]) -> int:
    """Train every trial that is not trained yet, and order them; 1 when one failed."""
    options, rest = _parse(words)
    check_options(options)
    quiet()
    sweep = read_sweep(options.file)
    line = CommandLine.parse(rest)
    check_forwarded(line)
    for file in line.configs:
        find_config(file)
    if options.seed is not None and sweep.method == "grid":
        raise InputError(f"--seed is of random trials, {sweep.file} is a grid: leave it out.")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count is {options.count}: expected 1 or more.")
    trials = sweep.trials(options.count, options.seed or 0)
    planner, graph = make_planner(options.runs_dir), JobGraph()
    for trial in trials:
        with placed(str(sweep.file), line):
            planner.check(sweep.fit_line(trial, line))
    chosen = [
        TrialJob(trial, graph.add_training(planner.plan(sweep.fit_line(trial, line))))
        for trial in trials
    ]
    jobs = graph.ordered()
    if options.dry_run:
        from studies.jobs.cost_table import print_estimate

        named = {one.job.id: one.trial for one in reversed(chosen)}
        print_estimate(jobs, *share(options, jobs), named)
        return 0
    folder = options.out or Path("sweeps") / sweep.name
    with study_folder(folder, "sweep"), make_workers(options, jobs) as workers:
        with Display() as display:
            engine = Engine(folder, jobs, workers, display)
            whole = engine.run()
        rows = ordered(sweep, chosen)
        Outputs(folder, "--out").settle("trials.csv", partial(write_csv, rows))
    _print(sweep, rows)
    print(f"All trials: {folder / 'trials.csv'}")
    return report(engine, whole)


def ordered(sweep: Sweep, trials: list[TrialJob]) -> list[dict[str, Any]]:
    """Return the trials as rows, the best first, those without a score last."""
    rows = []
    for trial in trials:
        manifest = trial.job.run.manifest()
        rows.append(
            {
                "trial": trial.trial.number,
                **trial.trial.parameters,
                sweep.metric: _score(sweep, trial.job),
                "parameters": manifest.get("parameters", {}).get("all"),
                "trained": manifest.get("parameters", {}).get("trained"),
                "run": str(trial.job.run.folder),
            }
        )
    sign = -1 if sweep.maximise else 1
    scored = [row for row in rows if row[sweep.metric] is not None]
    missing = [row for row in rows if row[sweep.metric] is None]
    return sorted(scored, key=lambda row: (sign * row[sweep.metric], row["trial"])) + missing


def _score(sweep: Sweep, job: Job) -> float | None:
    """Return the best value of the metric over the epochs of a finished trial."""
    if not job.finished():
        return None
    rows = read_metrics(job.run.metrics_file)
    values = [float(row[sweep.metric]) for row in rows if sweep.metric in row]
    if not values:
        return None
    return max(values) if sweep.maximise else min(values)


def _print(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"Sweep {sweep.name}", title_justify="left")
    swept = list(sweep.parameters)
    names = ["trial", *swept, sweep.metric, "trained"]
    for name, header in zip(names, ["trial", *short_names(swept), *names[-2:]], strict=True):
        table.add_column(header, justify="left" if name in swept else "right")
    for row in rows:
        score = row[sweep.metric]
        cells = {**row, sweep.metric: "-" if score is None else f"{score:.4f}"}
        table.add_row(*("-" if cells[name] is None else str(cells[name]) for name in names))
    Console(highlight=False).print(table)


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser(
        prog="lightning sweep",
        description="Train the trials of a W&B sweep file (grid or random) without an account.",
        epilog="Other words go to every `lightning fit`, such as --config OVERLAY or --data.root.",
        examples=["lightning sweep experiments/sweeps/fusion_attention.yaml --dry-run"],
    )
    parser.add_argument("file", help="such as experiments/sweeps/fusion_attention.yaml")
    parser.add_argument("--out", type=Path, help="folder of the sweep (default: sweeps/NAME)")
    parser.add_argument("--count", type=int, help="trials; a larger count goes on from a smaller")
    parser.add_argument("--seed", type=int, help="of random trials (default: 0)")
    add_dry_run(
        parser,
        "print the jobs and what they will cost, and leave; prepares the data, which may take "
        "long for raw exams",
    )
    add_options(parser)
    return parser.parse_known_args(list(words))
