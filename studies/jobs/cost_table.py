"""The table of ``--dry-run``: the jobs of a study and their estimated cost."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from studies.jobs.estimate import Costs, work_of
from studies.jobs.graph import Job

NUMBERS = ("parameters", "trained", "memory", "disk", "time")


@dataclass(frozen=True)
class Trial:
    """One set of a sweep's parameters.

    Args:
        number: index, from 0.
        parameters: values by their names on the command line.
    """

    number: int
    parameters: dict[str, Any]


def print_estimate(
    jobs: Sequence[Job],
    at_once: int,
    threads: int,
    trials: Mapping[str, Trial] | None = None,
    further: int = 0,
) -> None:
    """Print the jobs of a study with the estimated cost of each.

    Args:
        jobs: the jobs, each after those it needs.
        at_once: number of jobs that the machine runs at once.
        threads: processor threads of each job.
        trials: trials of a sweep by the id of their job; their parameters become columns.
        further: number of trials that are chosen once these have scores.
    """
    trials, costs, disk = trials or {}, Costs(threads), 0.0
    unknown: dict[str, int] = {}  # reasons and the number of their jobs
    seconds: dict[str, float] = {}
    swept = short_names(list(next(iter(trials.values())).parameters)) if trials else []
    table = Table(box=box.SIMPLE_HEAD)
    texts = ["job", *swept, "done"] if trials else ["job", "needs", "done"]
    for header in (*texts, *NUMBERS):
        left = header in texts
        table.add_column(header, justify="left" if left else "right", no_wrap=not left)
    for job in jobs:
        about = _about(job, trials)
        if job.finished():
            table.add_row(*about, "yes")
            continue
        cost = costs.of(job)
        if isinstance(cost, str):
            unknown[cost] = unknown.get(cost, 0) + 1
            table.add_row(*about, "no", *[""] * 4, "unknown")
            continue
        seconds[job.id] = work_of(job, trains=cost["step"] > 0).seconds(cost)
        numbers = [""] * 4
        if job.kind == "fit":
            disk += cost["checkpoint_gb"]
            counts = cost["parameters"]
            numbers = [f"{counts['all']:,}", f"{counts['trained']:,}"]
            numbers += [f"{cost['memory_gb']:.1f} GB", f"{cost['checkpoint_gb']:.2f} GB"]
        table.add_row(*about, "no", *numbers, _duration(seconds[job.id]))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    side = f"{at_once} jobs at once" if at_once > 1 else "one job after another"
    console.print(
        f"Together about {_duration(makespan(jobs, seconds, at_once))}, {side} with {threads} "
        f"thread{'s' * (threads > 1)} each, and {disk:.2f} GB. An estimate from one measured step "
        "and forward pass of every distinct network, the batches of its data, and what the start "
        "of a process, a validation and a test took in the benchmarks of speed/results. Early "
        "stopping makes it less, other work on this machine more."
    )
    for reason, number in unknown.items():
        console.print(f"Time unknown of {number} job{'s' * (number > 1)}: {reason}")
    if further:
        known = [seconds[name] for name in trials if name in seconds]
        each = f", each of about {_duration(median(known))}" if known else ""
        console.print(f"And {further} more trials, chosen by the scores of those before{each}.")


def _about(job: Job, trials: Mapping[str, Trial]) -> list[str]:
    """Return the first cells of a row: the job's name, and its parameters or what it needs."""
    if job.id in trials:
        trial = trials[job.id]
        return [f"trial {trial.number}", *map(_text, trial.parameters.values())]
    name = f"{job.run.experiment} {job.run.id}"
    if job.kind == "test":
        name = f"  test {job.variant}".rstrip()
    if trials:  # a stage that trials need
        return [name, *[""] * len(next(iter(trials.values())).parameters)]
    needs = [stage.run.experiment for stage in job.plan.stages.values()]
    return [name, ", ".join(needs) if job.kind == "fit" else ""]


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], at_once: int) -> float:
    """Return the seconds until the last job ends, each begun as soon as it can be.

    Args:
        jobs: the jobs, each after those it needs.
        seconds: duration by job id; jobs without one are done.
        at_once: most jobs that run at once.
    """
    waiting = [job for job in jobs if job.id in seconds]
    running: dict[str, float] = {}
    now = 0.0
    while waiting or running:
        unfinished = {*running, *(job.id for job in waiting)}
        for job in list(waiting):
            if len(running) < at_once and not unfinished & set(job.needs):
                running[job.id] = now + seconds[job.id]
                waiting.remove(job)
        first = min(running, key=lambda name: running[name])
        now = running.pop(first)
    return now


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def short_names(names: Sequence[str]) -> list[str]:
    """Return the last parts of dotted parameter names, or the whole names if these coincide."""
    short = [name.rpartition(".")[2] for name in names]
    return short if len(set(short)) == len(short) else list(names)
