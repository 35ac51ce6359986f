"""Files appear whole with the umask's permissions; cores are counted as they may be used."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import files
from files import cores, cores_each, is_locked, shared_lock, whole_folder, write_atomically

ROOT = Path(__file__).resolve().parents[1]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775)])
def test_permissions_are_those_of_the_umask(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "text", "text")
        write_atomically(tmp_path / "bytes", b"bytes")
        write_atomically(tmp_path / "deep" / "written", lambda path: path.write_text("x"))
        with whole_folder(tmp_path / "folder") as made:
            write_atomically(made / "inner", "x")
    finally:
        os.umask(before)
    for name in ("text", "bytes", "deep/written", "folder/inner"):
        assert mode(tmp_path / name) == file
    assert mode(tmp_path / "folder") == folder
    assert not list(tmp_path.rglob(".*"))


def test_a_lock_can_be_taken_by_every_user_of_the_folder(tmp_path):
    before = os.umask(0o077)
    try:
        with shared_lock(tmp_path / "a.lock"):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.lock") == 0o666


def test_whether_a_lock_is_held_is_answered_to_readers(tmp_path, monkeypatch):
    file = tmp_path / "a.lock"
    assert not is_locked(file)
    assert not file.exists()
    with shared_lock(file):
        file.chmod(0o444)
        assert is_locked(file)
    with file.open() as asked:  # by another process at the same moment
        fcntl.flock(asked, fcntl.LOCK_SH)
        assert not is_locked(file)


def test_what_a_killed_process_left_is_removed_by_the_next_that_holds_the_lock(tmp_path):
    left = tmp_path / ".a.partial"
    left.mkdir()
    (left / "half").touch()
    with whole_folder(tmp_path / "a", locked=True) as made:
        assert made == left
        assert not list(made.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path):
    write_atomically(tmp_path / "a.csv", "first")

    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a.csv", fails)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.csv", "first")]


def test_the_longest_name_that_a_file_can_have(tmp_path):
    name = "ü" * 124 + ".nii.gz"  # 255 bytes
    write_atomically(tmp_path / name, b"x")
    assert (tmp_path / name).is_file()


def test_of_two_processes_the_first_has_the_folder(tmp_path):
    with whole_folder(tmp_path / "a") as second:
        (second / "which").write_text("second")
        with whole_folder(tmp_path / "a") as first:
            (first / "which").write_text("first")
    assert (tmp_path / "a" / "which").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 cores without limits; `machine(name, text)` writes a control group's file."""
    for name in files.ALLOCATED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(files, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(files, "OWN_GROUPS", tmp_path / "own")

    def write(name, text):
        write_atomically(tmp_path / name, text)

    return write


def test_without_limits_all_cores_that_it_is_bound_to(machine, monkeypatch):
    assert cores() == 8
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_slurm_and_containers_limit_them(machine, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "5")
    assert cores() == 5
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert cores() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "many")
    assert cores() == 5
    machine("groups/cpu.max", "300000 100000\n")
    assert cores() == 3
    machine("groups/cpu.max", "20000 100000\n")
    assert cores() == 1
    machine("groups/cpu.max", "max 100000\n")
    assert cores() == 5


def test_the_quota_of_any_group_above_counts(machine):
    machine("own", "0::/job/step\n")
    machine("groups/job/step/cpu.max", "max 100000\n")
    machine("groups/job/cpu.max", "250000 100000\n")
    assert cores() == 3
    machine("own", "5:memory:/other\n4:cpu,cpuacct:/docker/1\n")
    machine("groups/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "200000\n")
    machine("groups/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n")
    machine("groups/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    machine("groups/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cores() == 2


def test_processes_share_cores_unless_slurm_gave_each_its_own(machine, monkeypatch):
    for name in files.TASKS:
        monkeypatch.delenv(name, raising=False)
    assert [cores_each(processes) for processes in (1, 3, 4, 16)] == [8, 2, 2, 1]
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "32")  # of which each of four tasks is bound to 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    assert cores_each(4) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")  # tasks that are bound to nothing
    assert cores_each(4) == 8
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")  # torchrun in one task of each node
    assert cores_each(4) == 8
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4,2")
    monkeypatch.delenv("SLURM_CPUS_ON_NODE")
    assert cores_each(4) == 8


def test_no_other_file_counts_cores():
    found = subprocess.run(
        ["git", "grep", "-lE", r"cpu_count\(|sched_getaffinity\(", "--", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode > 1:
        pytest.skip("no checkout of git")
    allowed = {"files.py", "tests/test_files.py", "speed/timing.py"}
    assert set(found.stdout.split()) <= allowed


def test_the_phantom_command_starts_where_no_affinity_exists(tmp_path):
    code = (
        "import os; del os.sched_getaffinity; import cli, sys; "
        f"sys.exit(cli.main(['phantom', '--out', {str(tmp_path / 'p')!r}, '--patients', '1', "
        "'--spacing', '5']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_workers_of_a_pool_end_with_a_parent_that_is_killed(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from files import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "parent.py").write_text(program)
    words = [sys.executable, str(tmp_path / "parent.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # the worker holds the pipe, so this ends only when it has ended
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.strip().isdigit()
