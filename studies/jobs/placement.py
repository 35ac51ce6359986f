"""Where the jobs of a study are done: on this machine or on a Ray cluster, and how many at once."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from errors import InputError
from files import cores
from studies.jobs.graph import Job
from studies.jobs.workers import LocalWorkers, Workers, jobs_at_once
from studies.tracking.weights_and_biases import check_account


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that runs jobs understands."""
    add = parser.add_argument
    add("--runs_dir", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    add("--jobs", type=int, help="jobs at once on this machine (default: by its GPUs or cores)")
    add("--ray", metavar="ADDRESS", help="run the jobs on this Ray cluster, such as auto")
    add("--gpus_per_job", type=float, help="of a Ray cluster (default: 1 where it has GPUs)")
    add(
        "--cpus_per_job",
        type=int,
        help="of a Ray cluster, and threads of a job; on processors results are the same to the "
        "last bit only for equal threads (default: as many as a job gets without Ray on the "
        "smallest of its nodes)",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuse options of `add_options` that cannot be, before anything is planned.

    Raises:
        InputError: naming the option.
    """
    if options.jobs is not None and options.jobs < 1:
        raise InputError(f"--jobs is {options.jobs}: expected 1 or more.")
    if options.jobs is not None and options.ray is not None:
        raise InputError(
            "--jobs is for this machine, and --ray runs the jobs on a cluster: leave one out, or "
            "share its nodes with --cpus_per_job and --gpus_per_job."
        )
    for name in ("cpus_per_job", "gpus_per_job"):
        wanted = getattr(options, name)
        if wanted is not None and options.ray is None:
            raise InputError(
                f"--{name} is for jobs on a Ray cluster: add --ray ADDRESS, or leave it out."
            )
        if wanted is not None and wanted < (1 if name == "cpus_per_job" else 0):
            raise InputError(f"--{name} is {wanted:g}: expected a positive number.")


@contextmanager
def make_workers(options: argparse.Namespace, jobs: Sequence[Job]) -> Iterator[Workers]:
    """Return the workers that the options ask for, and end them.

    Args:
        options: those of `add_options`.
        jobs: what they will do.

    Raises:
        InputError: when there are none.
    """
    if options.ray is not None:
        from studies.jobs.ray_workers import RayWorkers

        wanted = options.cpus_per_job, options.gpus_per_job
        workers: Workers = RayWorkers(options.ray, *wanted, spread=_spread(jobs))
    else:
        workers = local_workers(options.jobs, jobs)
    try:
        yield workers
    finally:
        workers.stop()


def local_workers(wanted: int | None, jobs: Sequence[Job]) -> LocalWorkers:
    """Return workers of this machine; trainings that leave their devices open get one GPU each.

    Args:
        wanted: jobs at once; None: by its GPUs or cores.
        jobs: what they will do.

    Raises:
        InputError: when W&B cannot be as it is asked for.
    """
    for job in jobs:  # here once, not by every job in its log
        check_account(job.plan.config)
    gpus = [] if _spread(jobs) else gpus_of(jobs)
    at_once, threads = _share(wanted, jobs, gpus)
    return LocalWorkers(at_once, threads, gpus if len(gpus) > 1 else [])


def share(options: argparse.Namespace, jobs: Sequence[Job]) -> tuple[int, int]:
    """Return how many jobs this machine does at once, and the threads of its processor for each.

    Args:
        options: those of `add_options`; of jobs on a Ray cluster one is taken to be done at once.
        jobs: what will be done.
    """
    at_once, threads = _share(options.jobs, jobs, [] if _spread(jobs) else gpus_of(jobs))
    return (1, options.cpus_per_job or threads) if options.ray else (at_once, threads)


def _share(wanted: int | None, jobs: Sequence[Job], gpus: Sequence[str]) -> tuple[int, int]:
    at_once = wanted or jobs_at_once(cores(), len(gpus), spread=_spread(jobs))
    return at_once, max(1, cores() // at_once)


def _spread(jobs: Sequence[Job]) -> bool:
    """Whether a training asks for several devices itself."""
    devices = {str(job.plan.config["trainer"].get("devices", "auto")) for job in jobs}
    return bool(devices - {"auto", "1"})


def gpus_of(jobs: Sequence[Job]) -> list[str]:
    """Return the GPUs that the jobs may use, by the names that their processes know them by."""
    from studies.settings.trainer import choose_device

    kinds = {choose_device(job.plan.config["trainer"]["accelerator"]) for job in jobs}
    if "cuda" not in kinds:
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named if len(named) == count and all(named) else [str(number) for number in range(count)]
