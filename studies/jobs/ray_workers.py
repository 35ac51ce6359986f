"""Workers that run jobs as tasks of a Ray cluster whose nodes see the same files."""

import logging
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from errors import InputError
from studies.jobs.workers import Task, jobs_at_once
from studies.runs.process import python_path, stop

RETRIES = 5  # most retries of a task whose node died
PATIENCE = 60.0  # seconds in which processes of a dead node notice that and end


def do(task: Task) -> int:
    """Run a task in this process of the cluster; return its exit status.

    If the node dies, Ray calls this again on another: a training that was begun then goes on from
    its last epoch.

    Raises:
        InputError: when this node does not see the files of the study.
    """
    if not task.folder.is_dir():
        raise InputError(
            f"The node {socket.gethostname()} does not see the folder {task.folder}: mount it "
            "there at the same place, or keep the node out of the cluster."
        )
    deadline = time.monotonic() + PATIENCE
    while task.run is not None and task.run.is_locked() and time.monotonic() < deadline:
        time.sleep(0.2)
    # Ray interrupts by SIGINT, which processes started in the background of a shell ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = task.start()
    try:
        while process.poll() is None:  # `wait` would delay an interruption by Ray
            time.sleep(0.2)
        return process.wait()
    finally:
        stop(process)


def cores_of_a_job(nodes: Sequence[Mapping[str, float]], gpus: float, *, multi_device: bool) -> int:
    """Return the cores that a job would get without Ray on the smallest node that can run it.

    Args:
        nodes: resources of each node, as Ray names them.
        gpus: GPUs of a job.
        multi_device: whether a job uses several devices by itself.
    """
    found = []
    for node in nodes:
        cores, there = int(node.get("CPU", 0)), node.get("GPU", 0)
        if cores and there >= gpus:
            at_once = jobs_at_once(
                cores, int(there // gpus) if gpus else 0, multi_device=multi_device
            )
            found.append(max(1, cores // at_once))
    return min(found, default=1)


def slots(nodes: Sequence[Mapping[str, float]], cores: int, gpus: float) -> int:
    """Return the number of jobs that nodes can run at once.

    Args:
        nodes: resources of each node, as Ray names them.
        cores: cores of a job.
        gpus: GPUs of a job.
    """
    found = 0
    for node in nodes:
        most = [node.get("CPU", 0) // cores, *([node.get("GPU", 0) // gpus] if gpus else [])]
        found += int(min(most))
    return found


class RayWorkers:
    """Workers that run tasks on a Ray cluster, which decides where and when.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``; ``local`` starts a cluster.
        cpus: processor cores of a task, and its threads; None: those it would get without Ray.
        gpus: GPUs of a task; None: one, where the cluster has any.
        multi_device: whether a task uses several devices by itself.

    Raises:
        InputError: when Ray is not installed, or the cluster cannot be reached or is too small.
    """

    def __init__(
        self, address: str, cpus: int | None, gpus: float | None, *, multi_device: bool = False
    ) -> None:
        if (cpus is not None and cpus < 1) or (gpus is not None and gpus < 0):
            raise InputError(
                f"--cpus_per_job is {cpus} and --gpus_per_job {gpus}: expected at least 1 and 0."
            )
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--ray needs Ray, which is absent: pip install -c constraints.txt -e '.[ray]'."
            ) from error
        self.ray = ray
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": {"PYTHONPATH": python_path()}},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"There is no Ray cluster at {address} ({' '.join(str(error).split())}): start one "
                "with `ray start --head`, or give its address."
            ) from error
        nodes = self._nodes()
        if gpus is None:  # Ray hides the GPUs from a task that requests none
            gpus = 1.0 if any(node.get("GPU", 0) for node in nodes) else 0.0
        self.cpus = cpus or cores_of_a_job(nodes, gpus, multi_device=multi_device)
        if not any(
            node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= gpus for node in nodes
        ):
            raise InputError(
                f"The Ray cluster at {address} has no node with {self.cpus} cores and {gpus:g} "
                "GPUs, which a job needs: start one, or lower --cpus_per_job and --gpus_per_job."
            )
        self.gpus = gpus
        self.remote = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=RETRIES)(do)
        self.references: dict[str, tuple[Any, Task]] = {}

    def has_room(self) -> bool:
        """Return True: Ray queues what it cannot begin yet."""
        return True

    def is_idle(self) -> bool:
        """Whether another task would begin at once; the first may always be handed over."""
        return len(self.references) < max(1, slots(self._nodes(), self.cpus, self.gpus))

    def start(self, task: Task, threads: int | None) -> None:
        """Hand a task over with this project's and W&B's environment variables."""
        kept = ("GLIOFUSE_", "WANDB_", "TORCH_HOME")
        own = {name: value for name, value in os.environ.items() if name.startswith(kept)}
        own["OMP_NUM_THREADS"] = str(threads or self.cpus)
        task.environment = {**own, **task.environment}
        self.references[task.id] = (self.remote.remote(task), task)

    def end(self, name: str) -> None:
        """Cancel a task: Ray interrupts `do`, which ends the task's process."""
        self.ray.cancel(self.references[name][0])

    def ended(self) -> dict[str, int]:
        """Return the exit status of every task that ended since the last call, by its id."""
        found = {}
        for name, (reference, task) in list(self.references.items()):
            if not self.ray.wait([reference], timeout=0)[0]:
                continue
            del self.references[name]
            try:
                found[name] = int(self.ray.get(reference))
            except self.ray.exceptions.RayError as error:
                # it could not begin, or its nodes died more than `RETRIES` times
                task.log.parent.mkdir(parents=True, exist_ok=True)
                with task.log.open("a") as log:
                    log.write(f"{str(error).strip()}\n")
                found[name] = 70
        return found

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def stop(self) -> None:
        """Cancel all tasks and leave the cluster."""
        if self.ray.is_initialized():
            for reference, _ in self.references.values():
                self.ray.cancel(reference, force=True)
            self.references.clear()
            self.ray.shutdown()
