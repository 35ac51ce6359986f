"""Processes that run jobs: one for each, logged to a file, ended when their parent is gone."""

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
    """A command of this project, ready to run on any machine that sees the same files.

    Args:
        id: id of the job.
        words: command-line words after ``lightning``.
        log: file to which the output is appended.
        folder: working directory.
        run: run of a training, which is resumed if it was begun; None for other commands.
        environment: variables added to those of the process that runs it.
    """

    id: str
    words: list[str]
    log: Path
    folder: Path
    run: Run | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the process; its input is a pipe, and it ends itself when the pipe closes."""
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
        """Return the last line of the log that is not empty."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        last = (line.strip() for line in reversed(lines) if line.strip())
        return next(last, "it printed nothing")


def jobs_at_once(cores: int, gpus: int, *, multi_device: bool) -> int:
    """Return the default number of jobs that a machine runs at once.

    On two cores, two networks side by side do about twice the work of one that has both.

    Args:
        cores: cores of the machine.
        gpus: number of GPUs that the jobs use.
        multi_device: whether a job uses several devices by itself.
    """
    return gpus or (1 if multi_device else min(2, cores))


class Workers(Protocol):
    """An executor of tasks."""

    def has_room(self) -> bool:
        """Whether another task may be handed over now."""

    def is_idle(self) -> bool:
        """Whether another task would begin at once."""

    def start(self, task: Task, threads: int | None) -> None:
        """Hand a task over."""

    def end(self, name: str) -> None:
        """Stop a task; `ended` returns it once it has ended."""

    def ended(self) -> dict[str, int]:
        """Return the exit status of every task that ended since the last call, by its id."""

    def stop(self) -> None:
        """Stop all tasks."""


class LocalWorkers:
    """Workers that run tasks as processes of this machine.

    Args:
        jobs: most tasks at once.
        threads: processor threads of each task.
        gpus: GPUs as ``CUDA_VISIBLE_DEVICES`` names them, of which each task gets one; empty: all
            tasks see all GPUs.
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
        """Start a task on the GPU with the fewest tasks."""
        taken = [gpu for _, gpu in self.processes.values()]
        gpu = min(self.gpus, key=taken.count, default=None)
        own = {"OMP_NUM_THREADS": str(threads or self.threads)}
        if gpu is not None:
            own["CUDA_VISIBLE_DEVICES"] = gpu
        task.environment = {**task.environment, **own}
        self.processes[task.id] = (task.start(), gpu)

    def end(self, name: str) -> None:
        """Stop a task without waiting for its end."""
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
        """Stop all tasks; a training goes on from its last epoch when it is started again."""
        for process, _ in self.processes.values():
            process.terminate()
        for process, _ in self.processes.values():
            stop(process)
        self.processes.clear()
