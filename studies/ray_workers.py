"""Jobs as tasks of a Ray cluster whose nodes see the same files."""

import logging
import os
import time
from typing import Any

from errors import InputError
from studies.arguments import ROOT
from studies.workers import Task, stop

RETRIES = 5  # of a task whose node died
PATIENCE = 60.0  # seconds for what a dead node left running to notice it


def do(task: Task) -> int:
    """Do a task in this process of the cluster; return its exit status.

    Ray calls it again, elsewhere, when the node dies: a training that was begun then goes on from
    its last epoch.
    """
    deadline = time.monotonic() + PATIENCE
    while task.run is not None and task.run.is_locked() and time.monotonic() < deadline:
        time.sleep(0.2)
    process = task.start()
    try:
        return process.wait()
    finally:
        stop(process)


class RayWorkers:
    """Tasks on a Ray cluster; Ray decides where and when.

    Args:
        address: of the cluster: ``auto``, ``host:port``, ``ray://host:port``; ``local`` starts one.
        cpus: processor cores of a task, and its threads.
        gpus: GPUs of a task; None: one, where the cluster has any.

    Raises:
        InputError: when Ray is not installed, or the cluster cannot be reached or is too small.
    """

    def __init__(self, address: str, cpus: int, gpus: float | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--ray needs Ray, which is absent: pip install -c constraints.txt -e '.[ray]'."
            ) from error
        self.ray = ray
        self.cpus = cpus
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"There is no Ray cluster at {address} ({' '.join(str(error).split())}): start one "
                "with `ray start --head`, or give its address."
            ) from error
        there = ray.cluster_resources()
        if gpus is None:  # Ray hides the GPUs from a task that asks for none
            gpus = 1.0 if there.get("GPU", 0) else 0.0
        if there.get("CPU", 0) < cpus or there.get("GPU", 0) < gpus:
            raise InputError(
                f"The Ray cluster at {address} has {there.get('CPU', 0):g} cores and "
                f"{there.get('GPU', 0):g} GPUs, and a job wants {cpus} and {gpus:g}: start more "
                "nodes, or lower --cpus_per_job and --gpus_per_job."
            )
        self.remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(do)
        self.references: dict[str, Any] = {}

    def has_room(self) -> bool:
        """Ray keeps what it cannot begin yet."""
        return True

    def start(self, task: Task, threads: int | None) -> None:
        """Hand a task over, with what this project reads from the environment."""
        own = {k: v for k, v in os.environ.items() if k.startswith(("GLIOFUSE_", "WANDB_"))}
        own["OMP_NUM_THREADS"] = str(threads or self.cpus)
        task.environment = {**own, **task.environment}
        self.references[task.id] = self.remote.remote(task)

    def ended(self) -> dict[str, int]:
        """Return the exit status of every task that ended since the last call, by its id."""
        found = {}
        for name, reference in list(self.references.items()):
            if not self.ray.wait([reference], timeout=0)[0]:
                continue
            del self.references[name]
            try:
                found[name] = int(self.ray.get(reference))
            except self.ray.exceptions.RayError:
                found[name] = 70  # its nodes died more often than it may be repeated
        return found

    def stop(self) -> None:
        """Take back what is running, and leave the cluster."""
        if self.ray.is_initialized():
            for reference in self.references.values():
                self.ray.cancel(reference, force=True)
            self.references.clear()
            self.ray.shutdown()
