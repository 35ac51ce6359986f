"""Files that appear whole, JSON and YAML that are checked, shared locks, this process."""

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import FileLock

from errors import InputError

Content = str | bytes | Callable[[Path], object]

LONGEST = 40  # characters of a name that its temporary one keeps: file systems allow 255 bytes
ON_NODE = "SLURM_CPUS_ON_NODE"
ALLOCATED = ("SLURM_CPUS_PER_TASK", ON_NODE)  # cores of a SLURM job
TASKS = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")  # such as 4(x2)
OWN_GROUPS = Path("/proc/self/cgroup")  # control groups of this process, where Linux has them
GROUPS = Path("/sys/fs/cgroup")
FULL = (errno.ENOSPC, errno.EDQUOT)  # a full disk, a full quota


def write_atomically(
    path: Path, content: Content, *, before: Callable[[Path], object] | None = None
) -> None:
    """Write a file under a temporary name beside its place and rename it.

    Readers never see half a file, and a process that is killed leaves the earlier file. The
    permissions are those that the umask gives to any new file.

    Args:
        path: the file; its folder is made where it is missing.
        content: text, bytes, or a function that writes to the path that it is given, which ends
            as `path` does.
        before: called with the temporary file when that is whole, before it is renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8", newline="")
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        if before is not None:
            before(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """Give an empty folder that takes the name of `path` when the block ends well.

    Where another process was first with that name, its folder stays. The permissions are those
    that the umask gives to any new folder.

    Args:
        path: the folder.
        locked: whether the caller holds a lock on `path`. Its temporary name is then always the
            same, and what a killed process left under it is removed first.
    """
    temporary = path.with_name(f".{path.name}.partial") if locked else temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_name(path: Path) -> Path:
    """Return a hidden name beside a path, unique to this process, with the path's ending."""
    return path.with_name(f".{secrets.token_hex(6)}.{path.name[-LONGEST:]}")


def shared_lock(path: Path) -> FileLock:
    """Return a lock that every user of a folder can take, despite the umask of the first."""
    return FileLock(path, mode=0o666)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock; asking needs the right to read and never delays a process.

    filelock can only take a lock, which needs the right to write and makes others wait.
    """
    if not path.is_file():
        return False
    with path.open() as handle:
        return not take(handle, shared=True)


def take(handle: IO[str], *, shared: bool) -> bool:
    """Lock an open file, for this process or together with others; return whether that succeeded.

    For what filelock cannot do: locks that are shared.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def end_with_parent() -> None:
    """End this worker of a pool when its parent dies; it would wait for new work for ever."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(70)

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """Return how many cores this process may use, at least one.

    The smallest of: the cores of the machine or those that the process is bound to, the
    allocation of a SLURM job, the processor time that a container's control group allows.
    """
    limits = [_bound_to()]
    for name in ALLOCATED:
        with suppress(KeyError, ValueError):
            limits.append(int(os.environ[name]))
    limits += _quotas()
    return max(1, min(limit for limit in limits if limit > 0))


def cores_each(processes: int) -> int:
    """Return how many cores each process of a training on this machine may use, at least one.

    They share the cores of this one, unless SLURM started each as a task with cores of its own.

    Args:
        processes: their number, on this machine alone.
    """
    shared = max(1, cores() // processes)
    tasks = next((os.environ[name] for name in TASKS if name in os.environ), "")
    if tasks.partition("(")[0].partition(",")[0] == str(processes):
        with suppress(KeyError, ValueError):
            return max(shared, min(cores(), int(os.environ[ON_NODE]) // processes))
    return shared


def _bound_to() -> int:
    """Return the cores that the process is bound to; macOS binds none and counts the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    counted = getattr(os, "process_cpu_count", os.cpu_count)()
    return counted or 1


def _quotas() -> list[int]:
    """Return the cores that each control group above this process allows, of either version."""
    found = []
    for folder in _groups():
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()  # version 2; "max": no limit
            found.append(math.ceil(int(quota) / int(period)))
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota = (folder / "cpu.cfs_quota_us").read_text()  # version 1; -1: no limit
            found.append(math.ceil(int(quota) / int((folder / "cpu.cfs_period_us").read_text())))
    return found


def _groups() -> list[Path]:
    """Return the folders of the control groups of this process and of all above them.

    Inside a container the own group is mounted as the root, whatever path it is listed by.
    """
    found = [GROUPS, GROUPS / "cpu", GROUPS / "cpu,cpuacct"]
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, _, rest = line.partition(":")
            controllers, _, place = rest.partition(":")
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = GROUPS / controllers if controllers else GROUPS
            inner = Path(place.lstrip("/"))
            found += [base / part for part in (inner, *inner.parents)]
    return list(dict.fromkeys(found))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's content that is an object.

    Raises:
        InputError: The file is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object with keys: mend or replace it.")
    return content


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        InputError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): mend or replace it.") from error


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys stand once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return content


class UniqueKeys(yaml.SafeLoader):
    """YAML whose keys stand once: the later of two would silently replace the earlier."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if key != "<<" and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)
