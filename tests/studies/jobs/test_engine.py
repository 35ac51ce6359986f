"""The engine with jobs that take no time."""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from errors import InputError
from studies.jobs import engine as engine_module
from studies.jobs.engine import Engine, full_disk, study_folder
from studies.jobs.graph import Job
from studies.runs.run import Run


class Quiet:
    """A display that records the notes and endings."""

    def __init__(self):
        self.notes, self.endings = [], []

    def note(self, text):
        self.notes.append(text)

    def started(self, job):
        pass

    def ended(self, job, entry, done, total):
        self.endings.append((job.id, entry["status"]))

    def progress(self, running):
        pass


class FakeWorkers:
    """Workers that run a task at once: the test's function, or one that leaves a finished run."""

    def __init__(self, room=2, **actions):
        self.room, self.actions = room, actions
        self.order, self.waiting = [], {}

    def has_room(self):
        return len(self.waiting) < self.room

    def start(self, task, threads):
        self.order.append(task.id)
        self.waiting[task.id] = self.actions.get(task.id, finish)(task)

    def ended(self):
        found, self.waiting = self.waiting, {}
        return found

    def stop(self):
        self.waiting = {}


def finish(task):
    """Leave the manifest of a finished training."""
    task.run.checkpoints.mkdir(parents=True)
    task.run.best_checkpoint.write_bytes(b"weights")
    task.run.update_manifest(status="finished")
    return 0


def fail(text, status=1):
    def action(task):
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.log.write_text(f"something\n{text}\n\n")
        return status

    return action


@pytest.fixture
def training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(name, *needs):
        return Job(name, "fit", Run(name, "1", Path("runs") / name / "1"), ["fit"], [*needs], None)

    return make


def state_of(folder):
    entries = json.loads((folder / "state.json").read_text())["jobs"]
    return {name: entry["status"] for name, entry in entries.items()}


def test_each_once_after_what_it_needs(training):
    jobs = [training("a"), training("b"), training("c", "a", "b"), training("d", "c")]
    workers = FakeWorkers()
    assert Engine(Path("study"), jobs, workers, Quiet()).run()
    assert workers.order == ["a", "b", "c", "d"]
    again = FakeWorkers()
    assert Engine(Path("study"), jobs, again, Quiet()).run()
    assert again.order == []
    assert set(state_of(Path("study")).values()) == {"finished"}


def test_a_failure_blocks_what_needs_it_and_nothing_else(training):
    jobs = [
        training("a"),
        training("b"),
        training("c", "a"),
        training("d", "c"),
        training("e", "b"),
    ]
    workers, display = FakeWorkers(a=fail("ValueError: no good")), Quiet()
    engine = Engine(Path("study"), jobs, workers, display)
    assert not engine.run()
    assert state_of(Path("study")) == {
        "a": "failed",
        "b": "finished",
        "c": "blocked",
        "d": "blocked",
        "e": "finished",
    }
    messages = {job.id: message for job, message in engine.failures()}
    assert messages["a"] == "it stopped with status 1 (ValueError: no good)"
    assert messages["c"] == "not begun, it needs a"
    assert engine.state["a"]["log"] == "study/logs/a.log"
    mended = FakeWorkers()
    assert Engine(Path("study"), jobs, mended, Quiet()).run()
    assert mended.order == ["a", "c", "d"]


def test_leaving_nothing_is_a_failure_too(training, monkeypatch):
    monkeypatch.setattr(engine_module, "SEEN_WITHIN", 0.0)
    engine = Engine(Path("study"), [training("a")], FakeWorkers(a=fail("all is well", 0)), Quiet())
    assert not engine.run()
    assert engine.failures()[0][1] == "it left no whole result (all is well)"


def test_a_full_disk_stops_the_rest_in_one_sentence(training):
    text = f"OSError: [Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
    jobs = [training("a"), training("b"), training("c")]
    workers = FakeWorkers(1, b=fail(text))
    with pytest.raises(InputError, match=r"The disk is full .study.: free some space and repeat"):
        Engine(Path("study"), jobs, workers, Quiet()).run()
    assert state_of(Path("study")) == {"a": "finished", "b": "failed", "c": "waiting"}
    after = FakeWorkers()
    assert Engine(Path("study"), jobs, after, Quiet()).run()
    assert after.order == ["b", "c"]


def test_a_full_disk_of_the_engine_itself(training, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    workers = FakeWorkers()
    monkeypatch.setattr(engine_module, "write_atomically", full)
    with pytest.raises(InputError) as caught, study_folder(Path("study")):
        Engine(Path("study"), [training("a")], workers, Quiet()).run()
    assert str(caught.value) == full_disk(Path("study"))


def test_a_run_that_another_process_trains_is_waited_for(training):
    (job,) = jobs = [training("a")]

    class Patient(Quiet):
        turns = 0

        def progress(self, running):
            self.turns += 1
            if self.turns == 2:  # the other process is done
                finish(type("Task", (), {"run": job.run}))
                held.close()

    job.run.folder.mkdir(parents=True)
    held = (job.run.folder / ".lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    workers, display = FakeWorkers(), Patient()
    assert Engine(Path("study"), jobs, workers, display).run()
    assert workers.order == []
    assert display.endings == [("a", "finished")]
    assert display.notes == ["runs/a/1 is trained by another process: waiting for it"]


def test_a_training_that_crashes_while_its_lock_is_held_is_not_tried_for_ever(training):
    def crash(task):
        task.run.folder.mkdir(parents=True)
        held.append((task.run.folder / ".lock").open("w"))  # as by data loaders that outlive it
        fcntl.flock(held[0], fcntl.LOCK_EX)
        return -9

    held = []
    workers = FakeWorkers(a=crash)
    engine = Engine(Path("study"), [training("a")], workers, Quiet())
    assert not engine.run()
    assert workers.order == ["a"]
    assert engine.failures()[0][1] == "it stopped with status -9 (it printed nothing)"
    held[0].close()


def test_what_another_machine_wrote_may_be_seen_later(training):
    def late(task):
        threading.Timer(0.3, finish, [task]).start()
        return 0

    assert Engine(Path("study"), [training("a")], FakeWorkers(a=late), Quiet()).run()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/study cannot be made .* another folder with --out"),
        study_folder(tmp_path / "file" / "study"),
    ):
        pass


def test_a_second_process_on_one_folder_gets_one_sentence(tmp_path):
    with study_folder(tmp_path / "study", "benchmark"):  # noqa: SIM117 - the second is refused
        with (
            pytest.raises(InputError, match="is worked on by another benchmark: wait"),
            study_folder(tmp_path / "study", "benchmark"),
        ):
            pass
    with study_folder(tmp_path / "study"):
        pass
