"""Processes that do jobs: one a job, its output in a log, ended when their parent is gone."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from studies.runs.process import FOREIGN, stop
from studies.runs.run import Run
from studies.settings.command_line import ROOT


@dataclass
class Task:
    """One command of this project, ready to be run anywhere that sees the same files.

    Args:
        id: of the job.
        words: after ``lightning``.
        log: file that its output is appended to.
        folder: working directory.
        run: where a training was begun, it goes on; None for what starts again.
        environment: variables beside those of the process that runs it.
    """

    id: str
    words: list[str]
    log: Path
    folder: Path
    run: Run | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it. Its input is a pipe that closes with this process, and that ends it."""
        words = list(self.words)
        if self.run is not None and self.run.started:
            words.append("--resume")
        environment = {**os.environ, **self.environment, "GLIOFUSE_STAGE": "1"}
        for name in FOREIGN:  # a W&B run and service of its own
            environment.pop(name, None)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "cli.py"), *words],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def last_line(self) -> str:
        """Return the last thing it said."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "it said nothing"
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def jobs_at_once(cores: int, gpus: int, *, spread: bool) -> int:
    """Return how many jobs a machine does at once, where nobody says.

    On two cores two networks side by side do about twice the work of one with both.

    Args:
        cores: of the machine.
        gpus: that the jobs use.
        spread: whether a job takes several devices by itself.
    """
    return gpus or (1 if spread else min(2, cores))


class Workers(Protocol):
    """Where tasks are done."""

    def has_room(self) -> bool:
        """Whether another task may be handed over now."""

    def is_idle(self) -> bool:
        """Whether another task would begin at once."""

    def start(self, task: Task, threads: int | None) -> None:
        """Hand a task over."""

    def end(self, name: str) -> None:
        """End a task; `ended` returns it once it has."""

    def ended(self) -> dict[str, int]:
        """Return the exit status of every task that ended since the last call, by its id."""

    def stop(self) -> None:
        """End what is running."""


class LocalWorkers:
    """Tasks as processes of this machine.

    Args:
        jobs: how many at once.
        threads: of the processor for each.
        gpus: GPUs that are dealt out, one a task, as ``CUDA_VISIBLE_DEVICES`` names them; none:
            all tasks see what there is.
    """

    def __init__(self, jobs: int, threads: int, gpus: Sequence[str] = ()) -> None:
        self.jobs = jobs
        self.threads = threads
        self.gpus = list(gpus)
        self.processes: dict[str, tuple[subprocess.Popen[bytes], str | None]] = {}

    def has_room(self) -> bool:
        """Whether fewer tasks run than may."""
        return len(self.processes) < self.jobs

    def is_idle(self) -> bool:
        """Whether fewer tasks run than may."""
        return self.has_room()

    def start(self, task: Task, threads: int | None) -> None:
        """Start a task, on the GPU with the fewest of them."""
        taken = [gpu for _, gpu in self.processes.values()]
        gpu = min(self.gpus, key=taken.count, default=None)
        own = {"OMP_NUM_THREADS": str(threads or self.threads)}
        if gpu is not None:
            own["CUDA_VISIBLE_DEVICES"] = gpu
        task.environment = {**task.environment, **own}
        self.processes[task.id] = (task.start(), gpu)

    def end(self, name: str) -> None:
        """End a task, without waiting for it."""
        process, _ = self.processes[name]
        threading.Thread(target=stop, args=(process,), daemon=True).start()

    def ended(self) -> dict[str, int]:
        """Return the exit status of every task that ended since the last call, by its id."""
        found = {}
        for name, (process, _) in list(self.processes.items()):
            status = process.poll()
            if status is None:
                continue
            stop(process)
            del self.processes[name]
            found[name] = status
        return found

    def stop(self) -> None:
        """End what is running; the trainings go on from their last epoch when asked again."""
        for process, _ in self.processes.values():
            process.terminate()
        for process, _ in self.processes.values():
            stop(process)
        self.processes.clear()
