"""A run: its identity, folder and state, and the lock against a second process.

A run's identity is the hash of what determines its result: the resolved model, the data settings
and content, the split, the seed and the protocol. Devices, logger, workers and paths are not part
of it, nor is post-processing, which acts after training only. Stages are reused and trainings
resumed by their identity.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import Timeout

from errors import InputError
from files import is_locked, shared_lock, take, write_atomically
from outputs import unused

MOMENT = 0.2  # seconds, longer than a process takes to test a lock
# Part of the identity: raised when the same settings give another computation.
SCHEMA = 4
FORMER = {  # schemas of earlier versions, and what was different
    3: "which turned slices with a grey rim and had another TransUNet",
    2: "which did not round training patches to float16",
    1: "which kept no voxel sizes apart",  # and post-processing was part of the identity
}


def identity_hash(determinants: Mapping[str, Any], schema: int = SCHEMA) -> str:
    """Return 12 hex digits of the SHA-256 of the determinants, independent of key order."""
    text = json.dumps({"schema": schema, **determinants}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def locked(file: Path, sentence: str) -> Iterator[None]:
    """Lock a file for this process; the lock ends with the process, even a killed one.

    Raises:
        InputError: with the sentence, when another process holds it; or when it is not writable.
    """
    with _written(file):
        try:
            held = shared_lock(file).acquire(timeout=MOMENT)
        except Timeout:
            raise InputError(sentence) from None
    with held:
        yield


@contextmanager
def held_together(file: Path, word: str, sentence: str) -> Iterator[bool]:
    """Share a lock with all processes that give the same word; yield whether this is the first.

    Raises:
        InputError: with the sentence, when a process holds it with another word, or by `locked`; or
            when it is not writable.
    """
    with _written(file):
        handle = file.open("a+")
    with handle:
        alone = take(handle, shared=False)
        if alone:
            handle.truncate(0)
            handle.write(word)
            handle.flush()
        for _ in range(int(1 / MOMENT)):  # another process may briefly hold it alone at first
            if take(handle, shared=True):
                break
            time.sleep(MOMENT)
        else:
            raise InputError(sentence)
        handle.seek(0)
        if handle.read() != word:
            raise InputError(sentence)
        yield alone


@contextmanager
def _written(file: Path) -> Iterator[None]:
    """Turn a missing permission to write a lock into an InputError."""
    try:
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield
    except PermissionError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror}): give a folder of your own, or have its "
            "owner let you write there."
        ) from error


@dataclass(frozen=True)
class Run:
    """A training in the folder ``<runs_dir>/<experiment>/<id>/``.

    Args:
        experiment: the stem of the experiment file.
        id: the identity hash of the run.
        folder: folder of all files of the run.
    """

    experiment: str
    id: str
    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.folder / "checkpoints"

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint that validation selected."""
        return self.checkpoints / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last finished epoch, which ``--resume`` loads."""
        return self.checkpoints / "last.ckpt"

    @property
    def metrics_file(self) -> Path:
        """One row an epoch: loss and validation Dice."""
        return self.folder / "metrics.csv"

    @property
    def progress_file(self) -> Path:
        """Progress of a stage that is trained in the background."""
        return self.folder / "progress.json"

    @property
    def log_file(self) -> Path:
        """Terminal output of a stage trained in the background."""
        return self.folder / "log.txt"

    def manifest(self) -> dict[str, Any]:
        """Return the manifest, empty before the run has started."""
        file = self.folder / "manifest.json"
        if not file.is_file():
            return {}
        try:
            found: Any = json.loads(file.read_text())
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise InputError(
                f"{file} is damaged: put a copy of it back, or move the folder {self.folder} away "
                "and train again."
            )
        return found

    def update_manifest(self, **entries: Any) -> None:
        """Add entries to the manifest, atomically."""
        text = json.dumps({**self.manifest(), **entries}, indent=2, default=str)
        write_atomically(self.folder / "manifest.json", text + "\n")

    @property
    def finished(self) -> bool:
        """Whether the run completed and left a usable checkpoint."""
        return self.manifest().get("status") == "finished" and self.best_checkpoint.is_file()

    @property
    def started(self) -> bool:
        """Whether there is something to resume or to overwrite."""
        return bool(self.manifest()) or self.last_checkpoint.is_file()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Store the resolved configuration."""
        write_atomically(self.folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, also when it is killed.

        Raises:
            InputError: when another process is training this run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sentence = (
            f"{self.folder} is being trained by another process: wait for it to end, "
            "or stop it and repeat the command with --resume."
        )
        with locked(self.folder / ".lock", sentence):
            yield

    def is_locked(self) -> bool:
        """Whether another process is training this run; the test itself blocks no process."""
        return is_locked(self.folder / ".lock")

    def discard(self) -> None:
        """Move the folder of an earlier attempt aside, so that its results are kept.

        Raises:
            InputError: when another process is training this run.
        """
        if not self.folder.exists():
            return
        sentence = (
            f"{self.folder} is being trained by another process, so it cannot be moved aside: wait "
            "for it to end, or stop it, and repeat the command."
        )
        with locked(self.folder / ".lock", sentence):
            set_aside(self.folder)


def same_cohort(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the manifests of two runs name the same data.

    A run of schema 1 recorded no voxel sizes, so only voxel values are compared with it.
    """
    if ("voxels" in one) == ("voxels" in other):
        return bool(one.get("cohort") == other.get("cohort"))
    first, second = (manifest.get("voxels", manifest.get("cohort")) for manifest in (one, other))
    return bool(first == second)


def never_found(manifest: Mapping[str, Any]) -> list[str]:
    """Return the regions that the best epoch of a run found in none of its validation patients.

    Their Dice is 0, but for patients without the region, where an empty mask scores 1.
    """
    rows = manifest.get("validation_cases") or [{}]
    scores = {name: {row[name] for row in rows} for name in rows[0] if name != "case_id"}
    return [name for name, found in scores.items() if 0 in found and found <= {0, 1}]


def set_aside(folder: Path) -> Path:
    """Rename a folder so that another takes its place; return its new name."""
    return folder.rename(unused(f"{folder}.replaced"))


def run_at(folder: Path) -> Run:
    """Return the run of a folder, whatever form its path has."""
    whole = folder.resolve()
    return Run(whole.parent.name, whole.name, folder)


def run_named(word: str, runs_dir: Path) -> Run | None:
    """Return the run that a name stands for, finished or not; None where there is none.

    Args:
        word: a run's folder or ``experiment/id``; or an experiment's name, file or folder, for its
            newest finished run.
        runs_dir: folder of all runs.
    """
    path = Path(word).expanduser()
    for folder in (path, runs_dir / word):
        if (folder / "manifest.json").is_file():
            return run_at(folder)
    # last, as a folder of the source may have the same name
    found = newest_finished(runs_dir, path.stem if path.suffix == ".yaml" else word, [])
    if found is None and path.is_dir():
        found = newest_finished(path.resolve().parent, path.resolve().name, [])
    return found


def finished_runs(runs_dir: Path, experiment: str) -> list[Run]:
    """Return the finished runs of an experiment, the newest first."""
    found = []
    for file in (runs_dir / experiment).glob("*/manifest.json"):
        run = Run(experiment, file.parent.name, file.parent)
        if ".replaced-" not in run.id and run.finished:
            found.append((str(run.manifest().get("finished_at", "")), run.id, run))
    return [run for *_, run in sorted(found, reverse=True)]


def newest_finished(runs_dir: Path, experiment: str, overlays: list[str]) -> Run | None:
    """Return the newest finished run of an experiment that has these overlays."""
    return next(
        (
            run
            for run in finished_runs(runs_dir, experiment)
            if set(overlays) <= set(run.manifest().get("overlays", []))
        ),
        None,
    )
