"""Run the jobs of a study: skip finished ones, record failures, and go on with the rest."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from errors import InputError
from files import FULL, write_atomically
from studies.jobs.graph import Job
from studies.jobs.study_files import STATE, claim
from studies.jobs.workers import Task, Workers
from studies.runs.run import Run, held_together, locked
from studies.tracking.weights_and_biases import GROUP

LOST = ("failed", "blocked")
ENDED = ("finished", "stopped", *LOST)
ELSEWHERE = "is trained by another process"
FULL_DISK = tuple(map(os.strerror, FULL))
REFUSED = 2  # exit status of a command with a wrong input, or whose run is locked
SEEN_WITHIN = 5.0  # seconds
TURN = 0.2  # seconds between looks at the running jobs
NO_ROOM = 2**20  # bytes; torch's error does not mention a full disk


class Supply(Protocol):
    """A source of jobs that are chosen while others run, such as the trials of a sweep."""

    @property
    def waits(self) -> bool:
        """Whether to choose a job only when it can begin at once."""

    def more(self) -> list[Job]:
        """Return the next job after those it needs; an empty list if there is none at present."""

    def left(self) -> int:
        """Return the number of unfinished jobs that `more` has not given to this process."""

    def unwanted(self, job: Job) -> str:
        """Return the reason to stop a running job; empty: let it run."""

    def ended(self, job: Job, status: str, message: str) -> None:
        """Record how a job ended."""


class Engine:
    """Runner of a study's jobs, each once and after those it needs; writes ``state.json``.

    A job is done when its result is there (the run of its identity, the whole table of scores).
    The state file is for the user and decides nothing.

    Args:
        folder: folder of the study.
        jobs: the jobs, each after those it needs.
        workers: run the jobs.
        display: shows what happens; gets `started`, `ended` and `progress`.
        supply: source of further jobs.
        state_file: name of the file for the state.
    """

    def __init__(
        self,
        folder: Path,
        jobs: list[Job],
        workers: Workers,
        display: Any,
        supply: Supply | None = None,
        state_file: str = STATE,
    ) -> None:
        self.folder = folder
        self.jobs = {job.id: job for job in jobs}
        self.workers = workers
        self.display = display
        self.supply = supply
        self.state_file = state_file
        self.state: dict[str, dict[str, Any]] = {job.id: {"status": "waiting"} for job in jobs}
        self.tasks: dict[str, Task] = {}
        self.began: dict[str, float] = {}
        self.unwanted: dict[str, str] = {}
        self.shares = False  # whether other processes were seen to run jobs of the supply
        self.disk_full = False

    def run(self) -> bool:
        """Run the jobs; return whether every one of them has its result."""
        for job in self.jobs.values():
            self._look_at(job)
        self._save()
        try:
            while self._is_open():
                moved = self._take_more() | self._start_some() | self._collect()
                if self.disk_full and not self.tasks:
                    break
                self.display.progress([self.jobs[name] for name in self.tasks])
                self._end_unwanted()
                if not moved:
                    time.sleep(TURN)
        finally:
            self.workers.stop()
            for name in self.tasks:
                self._set(self.jobs[name], "waiting", message="was stopped")
            self._save()
        if self.disk_full:
            raise InputError(full_disk(self.folder))
        return all(entry["status"] not in LOST for entry in self.state.values())

    def failures(self) -> list[tuple[Job, str]]:
        """Return the jobs that failed or could not begin, each with the reason."""
        return [
            (self.jobs[name], entry["message"])
            for name, entry in self.state.items()
            if entry["status"] in LOST
        ]

    def _is_open(self) -> bool:
        mine = any(entry["status"] not in ENDED for entry in self.state.values())
        return mine or (self.supply is not None and self.supply.left() > 0)

    def _look_at(self, job: Job) -> None:
        """Mark a job with a result as finished, and note a damaged result."""
        if job.finished():
            self._set(job, "finished", seconds=0.0, message="was done before")
            if self.supply is not None:
                self.supply.ended(job, "finished", "")
        elif damage := job.damage():
            self.display.note(f"{damage} It is tested again now.")

    def _take_more(self) -> bool:
        """Take a job from the supply once the earlier ones have begun."""
        if self.supply is None or self.disk_full:
            return False
        for entry in self.state.values():
            if entry["status"] == "waiting" and entry.get("message") != ELSEWHERE:
                return False
        if not (self.workers.is_idle() if self.supply.waits else self.workers.has_room()):
            return False
        taken = self.supply.more()
        for job in taken:
            if job.id not in self.jobs:
                self.jobs[job.id], self.state[job.id] = job, {"status": "waiting"}
                self._look_at(job)
        if not taken and not self.tasks and not self.shares and self.supply.left():
            self.shares = True
            self.display.note("another process does the rest: waiting for it")
        return bool(taken)

    def _end_unwanted(self) -> None:
        for name in self.tasks.keys() - self.unwanted:
            reason = self.supply.unwanted(self.jobs[name]) if self.supply else ""
            if reason:
                self.unwanted[name] = reason
                self.workers.end(name)

    def _start_some(self) -> bool:
        moved = False
        for name, job in self.jobs.items():
            if self.state[name]["status"] != "waiting" or self.disk_full:
                continue
            lost = [need for need in job.needs if self.state[need]["status"] in LOST]
            if lost:
                self._end(job, "blocked", f"not begun, it needs {lost[0]}")
                moved = True
            elif self._ready(job) and self.workers.has_room():
                moved = True
                if job.finished():
                    self._end(job, "finished", "was done meanwhile")
                else:
                    self._start(job)
        return moved

    def _ready(self, job: Job) -> bool:
        needed = all(self.state[need]["status"] == "finished" for need in job.needs)
        if not needed or job.kind == "test" or not job.run.is_locked():
            return needed
        if self.state[job.id].get("message") != ELSEWHERE:  # finished once that process is
            self._set(job, "waiting", message=ELSEWHERE)
            self.display.note(f"{job.run.folder} {ELSEWHERE}: waiting for it")
        return False

    def _start(self, job: Job) -> None:
        log = self.folder / "logs" / f"{job.id}.log"
        folder = job.run.folder.resolve()
        run = Run(job.run.experiment, job.run.id, folder) if job.kind == "fit" else None
        job.progress_file.unlink(missing_ok=True)
        group = {GROUP: self.folder.name}
        task = Task(job.id, job.words, log.resolve(), Path.cwd(), run, group)
        self._set(job, "running", log=str(log), began=time.strftime("%Y-%m-%dT%H:%M:%S"))
        self._save()
        self.display.started(job)
        self.tasks[job.id], self.began[job.id] = task, time.monotonic()
        self.workers.start(task, job.threads)

    def _collect(self) -> bool:
        ended = self.workers.ended()
        for name, status in ended.items():
            job, task = self.jobs[name], self.tasks.pop(name)
            if self._has_result(job, 1 if name in self.unwanted else status):
                self._end(job, "finished", "")
            elif name in self.unwanted:
                self._end(job, "stopped", self.unwanted[name])
            elif job.kind == "fit" and status == REFUSED and job.run.is_locked():
                self._set(job, "waiting", message=ELSEWHERE)
                self._save()
            else:
                self._end(job, "failed", self._reason(job, task, status))
        return bool(ended)

    @staticmethod
    def _has_result(job: Job, status: int) -> bool:
        """Whether a job has a result; files from other machines may show up seconds later."""
        last = time.monotonic() + (0 if status else SEEN_WITHIN)
        while not job.finished():
            if time.monotonic() >= last:
                return False
            time.sleep(0.5)
        return True

    def _reason(self, job: Job, task: Task, status: int) -> str:
        last = task.last_line()
        runs = job.run.folder.parents[1]
        room = min(shutil.disk_usage(place).free for place in (self.folder, runs) if place.exists())
        if any(text in last for text in FULL_DISK) or room < NO_ROOM:
            self.disk_full = True
        ending = f"it stopped with status {status}" if status else "it left no whole result"
        return f"{job.damage() or ending} ({last})"

    def _end(self, job: Job, status: str, message: str) -> None:
        began = self.began.get(job.id)
        seconds = 0.0 if began is None else round(time.monotonic() - began, 1)
        self._set(job, status, seconds=seconds, message=message)
        self._save()
        if self.supply is not None:
            self.supply.ended(job, status, message)
        done = sum(entry["status"] in ENDED for entry in self.state.values())
        total = len(self.jobs) + (0 if self.supply is None else self.supply.left())
        self.display.ended(job, self.state[job.id], done, total)

    def _set(self, job: Job, status: str, **entries: Any) -> None:
        self.state[job.id] = {**self.state[job.id], "status": status, **entries}

    def _save(self) -> None:
        text = json.dumps({"jobs": self.state}, indent=2)
        write_atomically(self.folder / self.state_file, text + "\n")


def full_disk(folder: Path) -> str:
    """Return the message for a full disk."""
    return (
        f"The disk is full ({folder}): free some space and repeat the command; finished jobs are "
        "kept, and a training that was begun goes on from its last epoch."
    )


@contextmanager
def study_folder(folder: Path, kind: str = "", shared: str = "") -> Iterator[bool]:
    """Lock the folder of a study; yields whether this process is alone in it.

    Args:
        folder: folder to lock; made if it is absent.
        kind: kind of command that works in it, for messages.
        shared: name of the work that several processes may do in it together; empty: none.

    Raises:
        InputError: when it cannot be made, another process works in it, the disk is full, or the
            user interrupts.
    """
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(
                f"{folder} cannot be made ({error.strerror}): give another folder with --out."
            ) from error
        lock = folder / ".lock"
        sentence = (
            f"{folder} is worked on by another {kind or 'process'}: wait for it to end, stop it, "
            "or give another folder with --out."
        )
        with held_together(lock, shared, sentence) if shared else locked(lock, sentence) as alone:
            claim(folder)
            yield alone is not False
    except KeyboardInterrupt:
        raise InputError("Stopped: repeat the command to go on; finished jobs are kept.") from None
    except OSError as error:
        if error.errno in FULL:
            raise InputError(full_disk(folder)) from error
        raise
