"""Doing the jobs of a study: the finished are skipped, a failed one is recorded, the rest go on."""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from errors import InputError
from files import write_atomically
from studies.jobs.graph import Job
from studies.jobs.study_files import STATE, claim
from studies.jobs.workers import Task, Workers
from studies.runs.run import Run, locked
from studies.tracking.weights_and_biases import GROUP

ENDED = ("finished", "failed", "blocked")
ELSEWHERE = "is trained by another process"
FULL_DISK = os.strerror(errno.ENOSPC)
REFUSED = 2  # exit status of a command that was refused its input, or the lock of its run
SEEN_WITHIN = 5.0  # seconds
NO_ROOM = 2**20  # bytes; torch does not say why it could not write a checkpoint


class Engine:
    """Do every job once, those without open needs first; state survives in ``state.json``.

    What decides whether a job is done is its result (the run's identity, the whole table of
    scores), never the state file, which is there to be looked at.

    Args:
        folder: of the study.
        jobs: each after those it needs.
        workers: where they are done.
        display: shows what happens; gets `started`, `ended` and `progress`.
    """

    def __init__(self, folder: Path, jobs: list[Job], workers: Workers, display: Any) -> None:
        self.folder = folder
        self.jobs = {job.id: job for job in jobs}
        self.workers = workers
        self.display = display
        self.state: dict[str, dict[str, Any]] = {job.id: {"status": "waiting"} for job in jobs}
        self.tasks: dict[str, Task] = {}
        self.began: dict[str, float] = {}
        self.disk_full = False

    def run(self) -> bool:
        """Do the jobs; return whether every one of them has its result."""
        for job in self.jobs.values():
            if job.finished():
                self._set(job, "finished", seconds=0.0, message="was done before")
            elif damage := job.damage():
                self.display.note(f"{damage} It is tested again now.")
        self._save()
        try:
            while any(entry["status"] not in ENDED for entry in self.state.values()):
                moved = self._start_some() | self._collect()
                if self.disk_full and not self.tasks:
                    break
                self.display.progress([self.jobs[name] for name in self.tasks])
                if not moved:
                    time.sleep(0.2)
        finally:
            self.workers.stop()
            for name in self.tasks:
                self._set(self.jobs[name], "waiting", message="was stopped")
            self._save()
        if self.disk_full:
            raise InputError(full_disk(self.folder))
        return all(entry["status"] == "finished" for entry in self.state.values())

    def failures(self) -> list[tuple[Job, str]]:
        """Return the jobs that failed or could not be begun, and why."""
        return [
            (self.jobs[name], entry["message"])
            for name, entry in self.state.items()
            if entry["status"] in ("failed", "blocked")
        ]

    # -- one step ----------------------------------------------------------------------------------

    def _start_some(self) -> bool:
        moved = False
        for name, job in self.jobs.items():
            if self.state[name]["status"] != "waiting" or self.disk_full:
                continue
            lost = [need for need in job.needs if self.state[need]["status"] in ENDED[1:]]
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
        if self.state[job.id].get("message") != ELSEWHERE:  # waited for, then counted as done
            self._set(job, "waiting", message=ELSEWHERE)
            self.display.note(f"{job.run.folder} {ELSEWHERE}: it is waited for")
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
            if self._has_result(job, status):
                self._end(job, "finished", "")
            elif job.kind == "fit" and status == REFUSED and job.run.is_locked():
                self._set(job, "waiting", message=ELSEWHERE)
                self._save()
            else:
                self._end(job, "failed", self._reason(job, task, status))
        return bool(ended)

    @staticmethod
    def _has_result(job: Job, status: int) -> bool:
        """Whether it left one; what another machine wrote may be seen here some seconds later."""
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
        if FULL_DISK in last or room < NO_ROOM:
            self.disk_full = True
        what = f"it stopped with status {status}" if status else "it left no whole result"
        if damage := job.damage():
            what = damage
        return f"{what} ({last})"

    # -- state -------------------------------------------------------------------------------------

    def _end(self, job: Job, status: str, message: str) -> None:
        began = self.began.get(job.id)
        seconds = 0.0 if began is None else round(time.monotonic() - began, 1)
        self._set(job, status, seconds=seconds, message=message)
        self._save()
        done = sum(entry["status"] in ENDED for entry in self.state.values())
        self.display.ended(job, self.state[job.id], done, len(self.jobs))

    def _set(self, job: Job, status: str, **entries: Any) -> None:
        self.state[job.id] = {**self.state[job.id], "status": status, **entries}

    def _save(self) -> None:
        text = json.dumps({"jobs": self.state}, indent=2)
        write_atomically(self.folder / STATE, text + "\n")


def full_disk(folder: Path) -> str:
    """Return the sentence about a full disk."""
    return (
        f"The disk is full ({folder}): free some space and repeat the command; what is finished is "
        "kept, and a training that was begun goes on from its last epoch."
    )


@contextmanager
def study_folder(folder: Path, repeat: str = "") -> Iterator[None]:
    """Hold the folder of a study for this process; a full disk is told in one sentence.

    Args:
        folder: made if it is not there.
        repeat: what kind of command works in it.

    Raises:
        InputError: when it cannot be made, another process works in it, the disk is full, or
            somebody stops it.
    """
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(
                f"{folder} cannot be made ({error.strerror}): give another folder with --out."
            ) from error
        with locked(
            folder / ".lock",
            f"{folder} is worked on by another {repeat or 'process'}: wait for it to end, stop it, "
            "or give another folder with --out.",
        ):
            claim(folder)
            yield
    except KeyboardInterrupt:
        raise InputError(
            "Stopped: repeat the command and it goes on; what is finished is kept."
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(full_disk(folder)) from error
        raise
