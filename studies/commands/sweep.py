"""``lightning sweep FILE``: train the trials of a W&B sweep file, without an account."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import Any

from command_parser import CommandParser, at_home
from errors import InputError
from evaluation.tables.per_case import write_csv
from outputs import Outputs
from studies.benchmarks.benchmark_file import integers
from studies.benchmarks.sweep_file import Sweep, read_sweep
from studies.benchmarks.sweep_study import SweepStudy, score_of
from studies.commands.benchmark import report
from studies.jobs.cost_table import Trial, short_names
from studies.jobs.display import Display
from studies.jobs.engine import Engine, study_folder
from studies.jobs.graph import Job, JobGraph
from studies.jobs.placement import add_options, check_options, concurrency, make_workers
from studies.jobs.study_files import STATE
from studies.runs.unused_options import check_forwarded, plain_name
from studies.settings.command_line import CommandLine, add_dry_run
from studies.settings.unknown_names import placed
from studies.training.fit_parser import make_planner
from studies.training.lightning_cli import quiet


@dataclass(frozen=True)
class TrialJob:
    """A trial and its training.

    Args:
        trial: the trial.
        job: the training; None if the parameters are invalid.
        stopped: number of validations after which it was stopped early; None: it was not.
    """

    trial: Trial
    job: Job | None
    stopped: int | None = None


class Trainings:
    """The trainings of trials, each resolved once.

    Args:
        sweep: the sweep.
        line: overlays and options of the command line.
        runs_dir: folder of all runs.
    """

    def __init__(self, sweep: Sweep, line: CommandLine, runs_dir: Path) -> None:
        self.sweep, self.line = sweep, line
        self.planner, self.graph = make_planner(runs_dir), JobGraph()
        self.jobs: dict[str, Job] = {}

    def check(self, trial: Trial) -> CommandLine:
        """Return the command line of a trial after checking its settings."""
        fit = self.sweep.fit_line(trial, self.line)
        with placed(str(self.sweep.file), self.line):
            self.planner.check(fit)
        return fit

    def of(self, trial: Trial) -> Job:
        """Return the training of a trial."""
        values = json.dumps(trial.parameters)
        if values not in self.jobs:
            self.jobs[values] = self.graph.add_training(self.planner.plan(self.check(trial)))
        return self.jobs[values]

    def with_needs(self, trial: Trial) -> list[Job]:
        """Return the training of a trial, after the jobs it needs."""
        return self.graph.with_needs(self.of(trial))

    def results(self, study: SweepStudy) -> list[TrialJob]:
        """Return the trials of a study, including those of other processes."""
        failures, stopped, found = study.failures(), study.stopped(), []
        for trial in study.parameters():
            try:
                job = self.of(trial)
            except InputError:
                if trial.number not in failures:
                    raise
                job = None
            found.append(TrialJob(trial, job, stopped.get(trial.number)))
        return found


def main(words: Sequence[str]) -> int:
    """Train every trial that is not trained yet, and rank them; return 1 if one failed."""
    options, rest = _parse(words)
    check_options(options)
    quiet()
    sweep = read_sweep(options.file)
    line = CommandLine.parse(rest)
    check_forwarded(line)
    check_unswept(sweep, line)
    if options.seed is not None and sweep.method == "grid":
        raise InputError(f"--seed is for random trials, {sweep.file} is a grid: leave it out.")
    seed = integers(options.seed or 0, "--seed")[0]
    if options.count is not None and options.count < 1:
        raise InputError(f"--count is {options.count}: expected 1 or more.")
    total, draws = sweep.total(options.count), sweep.draws(options.count, seed)
    known = sweep.trials(draws)
    trainings = Trainings(sweep, line, options.runs_dir)
    for trial in known:
        trainings.check(trial)
    named: dict[str, Trial] = {}
    for trial in known:
        named.setdefault(trainings.of(trial).id, trial)
    jobs = trainings.graph.ordered()
    if options.dry_run:
        from studies.jobs.cost_table import print_estimate

        print_estimate(jobs, *concurrency(options, jobs), named, total - len(known))
        return 0
    folder = options.out or Path("sweeps") / sweep.name
    name = sweep.identity(seed, trainings.of(known[0]).run.id)
    with study_folder(folder, "sweep", name) as alone, make_workers(options, jobs) as workers:
        with SweepStudy(sweep, folder, name, total, seed, draws, trainings.with_needs) as study:
            done = [job for trial in study.done() for job in trainings.with_needs(trial)]
            state = STATE if alone else f"state-{gethostname()}-{os.getpid()}.json"
            with Display() as display:
                engine = Engine(folder, done, workers, display, study, state)
                whole = engine.run()
            trials = trainings.results(study)
        rows = ordered(sweep, trials)
        Outputs(folder, "--out").settle("trials.csv", partial(write_csv, rows))
    print_trials(sweep, rows)
    if study.reached():
        print(f"A trial reached the target, {sweep.metric} {sweep.target}: no further one begins.")
    print(f"All trials: {folder / 'trials.csv'}")
    reported = {job.id for job, _ in engine.failures()}
    failures = study.failures()
    for one in trials:
        if one.trial.number in failures and (one.job is None or one.job.id not in reported):
            print(f"Failed: trial {one.trial.number}: {failures[one.trial.number]}")
    return report(engine, whole and not failures)


def check_unswept(sweep: Sweep, line: CommandLine) -> None:
    """Refuse an option that would override a parameter of every trial.

    Raises:
        InputError: naming both.
    """
    for name, _ in line.options:
        for swept in sweep.parameters:
            typed, drawn = f"{plain_name(name)}.", f"{plain_name(swept)}."
            if typed.startswith(drawn) or drawn.startswith(typed):
                raise InputError(
                    f"--{name} would override {swept}, a parameter of {sweep.file}, in every "
                    "trial: leave it out, or take the parameter out of the file."
                )


def ordered(sweep: Sweep, trials: list[TrialJob]) -> list[dict[str, Any]]:
    """Return the trials as rows: best first, then those stopped early, those without score last."""
    rows = []
    for trial in trials:
        manifest = trial.job.run.manifest() if trial.job else {}
        stopped = trial.stopped is not None
        score = score_of(sweep, trial.job, unfinished=stopped) if trial.job else None
        row = {"trial": trial.trial.number, **trial.trial.parameters, sweep.metric: score}
        if sweep.early_stop:
            row["stopped_after"] = trial.stopped
        row |= {
            "parameters": manifest.get("parameters", {}).get("all"),
            "trained": manifest.get("parameters", {}).get("trained"),
            "run": str(trial.job.run.folder) if trial.job else "",
        }
        rows.append(row)
    sign = -1 if sweep.maximise else 1

    def rank(row: dict[str, Any]) -> tuple[Any, ...]:
        score = row[sweep.metric]
        if score is None:
            return (2,)
        return (int(row.get("stopped_after") is not None), sign * score, row["trial"])

    return sorted(rows, key=rank)


def print_trials(sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """Print rows of `ordered` as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"Sweep {sweep.name}", title_justify="left")
    swept = list(sweep.parameters)
    after = ["trained", *(["stopped_after"] if sweep.early_stop else [])]
    names = ["trial", *swept, sweep.metric, *after]
    headers = ["trial", *short_names(swept), sweep.metric, *after]
    for name, header in zip(names, headers, strict=True):
        side: Any = "left" if name in swept or name == "stopped_after" else "right"
        table.add_column(header.replace("_", " ") if name in after else header, justify=side)
    for row in rows:
        score, stopped = row[sweep.metric], row.get("stopped_after")
        cells = {**row, sweep.metric: "-" if score is None else f"{score:.4f}"}
        plural = "s" if stopped != 1 else ""
        cells["stopped_after"] = "" if stopped is None else f"{stopped} validation{plural}"
        table.add_row(*("-" if cells[name] is None else str(cells[name]) for name in names))
    Console(highlight=False).print(table)


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser(
        prog="lightning sweep",
        description="Train the trials of a W&B sweep file (grid, random or bayes), without an "
        "account.",
        epilog="Other options go to every `lightning fit`, such as --config FILE or --data.root.",
        examples=["lightning sweep experiments/sweeps/fusion_attention.yaml --dry-run"],
    )
    parser.add_argument("file", help="such as experiments/sweeps/fusion_attention.yaml")
    parser.add_argument("--out", type=at_home, help="folder of the sweep (default: sweeps/NAME)")
    parser.add_argument("--count", type=int, help="number of trials; may be raised later")
    parser.add_argument("--seed", type=int, help="seed of random and bayes trials (default: 0)")
    add_dry_run(
        parser,
        "print the jobs and their estimated cost, and stop; prepares the data, which may take "
        "long for raw exams",
    )
    add_options(parser)
    return parser.parse_known_args(list(words))
