"""Where the jobs of a study run, this machine or a Ray cluster, and how many at once."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from command_parser import at_home
from errors import InputError
from files import cores
from studies.jobs.graph import Job
from studies.jobs.workers import LocalWorkers, Workers, jobs_at_once
from studies.tracking.weights_and_biases import check_account


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command with jobs has."""
    add = parser.add_argument
    add("--runs_dir", type=at_home, default=Path("runs"), help="folder of all runs (default: runs)")
    add("--jobs", type=int, help="jobs at once on this machine (default: by its GPUs or cores)")
    add("--ray", metavar="ADDRESS", help="run the jobs on this Ray cluster, such as auto")
    add(
        "--gpus_per_job",
        type=float,
        help="GPUs of a job on a Ray cluster (default: 1 where it has any)",
    )
    add(
        "--cpus_per_job",
        type=int,
        help="cores and threads of a job on a Ray cluster; on processors results are the same to "
        "the last bit only for equal threads (default: as many as a job gets without Ray on the "
        "smallest of its nodes)",
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuse wrong values of the options of `add_options`, before anything is planned.

    Raises:
        InputError: when one is wrong, naming it.
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
    """Yield the workers that the options choose, and stop them at the end.

    Args:
        options: parsed options of `add_options`.
        jobs: the jobs that they will run.

    Raises:
        InputError: when the Ray cluster or W&B cannot be used as the options say.
    """
    if options.ray is not None:
        from studies.jobs.ray_workers import RayWorkers

        resources = options.cpus_per_job, options.gpus_per_job
        workers: Workers = RayWorkers(options.ray, *resources, multi_device=_multi_device(jobs))
    else:
        workers = local_workers(options.jobs, jobs)
    try:
        yield workers
    finally:
        workers.stop()


def local_workers(wanted: int | None, jobs: Sequence[Job]) -> LocalWorkers:
    """Return workers of this machine; trainings that name no devices get one GPU each.

    Args:
        wanted: jobs at once; None: by the machine's GPUs or cores.
        jobs: the jobs that they will run.

    Raises:
        InputError: when W&B cannot be used as the environment says.
    """
    for job in jobs:  # once here, so that not every job fails with it in its log
        check_account(job.plan.config)
    gpus = [] if _multi_device(jobs) else gpus_of(jobs)
    at_once, threads = _concurrency(wanted, jobs, gpus)
    return LocalWorkers(at_once, threads, gpus if len(gpus) > 1 else [])


def concurrency(options: argparse.Namespace, jobs: Sequence[Job]) -> tuple[int, int]:
    """Return the number of jobs that run at once, and the processor threads of each.

    Args:
        options: parsed options of `add_options`; for a Ray cluster one job at once is assumed.
        jobs: the jobs that will run.
    """
    gpus = [] if _multi_device(jobs) else gpus_of(jobs)
    at_once, threads = _concurrency(options.jobs, jobs, gpus)
    return (1, options.cpus_per_job or threads) if options.ray else (at_once, threads)


def _concurrency(wanted: int | None, jobs: Sequence[Job], gpus: Sequence[str]) -> tuple[int, int]:
    at_once = wanted or jobs_at_once(cores(), len(gpus), multi_device=_multi_device(jobs))
    return at_once, max(1, cores() // at_once)


def _multi_device(jobs: Sequence[Job]) -> bool:
    """Whether a training uses several devices by itself."""
    devices = {str(job.plan.config["trainer"].get("devices", "auto")) for job in jobs}
    return bool(devices - {"auto", "1"})


def gpus_of(jobs: Sequence[Job]) -> list[str]:
    """Return the GPUs that the jobs may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    from studies.settings.trainer import choose_device

    kinds = {choose_device(job.plan.config["trainer"]["accelerator"]) for job in jobs}
    if "cuda" not in kinds:
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named if len(named) == count and all(named) else [str(number) for number in range(count)]
