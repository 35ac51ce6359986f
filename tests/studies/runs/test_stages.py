"""A command waits for stages that another process trains, such as an agent of one sweep."""

import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from lightning_modules.callbacks.run_progress import RunBars, RunProgress
from studies.runs import stages
from studies.runs.run import Run


@pytest.fixture
def stage(tmp_path):
    return SimpleNamespace(stages={}, run=Run("net", "abc", tmp_path / "net" / "abc"))


def train(run, begun):
    """Train like another process."""
    with run.lock():
        begun.set()
        time.sleep(0.7)
        run.checkpoints.mkdir()
        run.best_checkpoint.touch()
        run.update_manifest(status="finished")


def begin(run):
    begun = threading.Event()
    threading.Thread(target=train, args=(run, begun)).start()
    begun.wait()


def test_a_stage_that_another_process_trains_is_waited_for(stage, monkeypatch, capsys):
    monkeypatch.setattr(stages, "start_stage", None)  # nothing is trained here
    begin(stage.run)
    stages.train_stages(SimpleNamespace(stages={"net.yaml": stage}), side_by_side=False)
    assert stage.run.finished
    printed = capsys.readouterr().out
    assert "Stage net.yaml: another process trains it, waiting: " in printed
    assert "Stage net.yaml: trained before" in printed


def test_one_that_ends_while_it_is_asked_about_is_not_taken_for_a_broken_one(stage, monkeypatch):
    plan, run = SimpleNamespace(stages={"net.yaml": stage}), stage.run
    with run.lock():
        run.checkpoints.mkdir()
        run.best_checkpoint.touch()
        run.update_manifest(status="running")
    assert stages.begun_stage(plan) == run

    def asked(_):
        run.update_manifest(status="finished")
        return False

    monkeypatch.setattr(Run, "is_locked", asked)
    assert stages.begun_stage(plan) is None


@pytest.mark.parametrize("side_by_side", [True, False])
def test_so_is_one_that_another_process_began_a_moment_before(
    side_by_side, stage, monkeypatch, capsys
):
    def start(plan, index, threads, stack):
        begin(plan.run)  # the process started here is too late
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    monkeypatch.setattr(stages, "start_stage", start)
    plan = SimpleNamespace(stages={"net.yaml": stage})
    stages.train_stages(plan, side_by_side=side_by_side)
    assert stage.run.finished


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_names_the_epoch_and_a_log_has_a_line_an_epoch(terminal, stage, monkeypatch, capsys):
    """The progress of a training stage: in a log no bar and no control character."""
    stage.run.folder.mkdir(parents=True)
    report = RunProgress("net", stage.run.progress_file)

    def start(plan, index, threads, stack):
        begun = threading.Event()

        def work():
            with plan.run.lock():
                begun.set()
                trainer = SimpleNamespace(
                    num_training_batches=2, max_epochs=2, current_epoch=0, is_global_zero=True
                )
                report.on_train_start(trainer, None)
                for epoch in (0, 1):
                    trainer.current_epoch = epoch
                    trainer.callback_metrics = {"train/loss": 0.5 - epoch / 4}
                    report.on_train_epoch_start(trainer, None)
                    time.sleep(0.3)
                    for _ in range(2):
                        report.on_train_batch_end(trainer)
                    report.on_train_epoch_end(trainer, None)
                    time.sleep(0.3)
                plan.run.checkpoints.mkdir()
                plan.run.best_checkpoint.touch()
                plan.run.update_manifest(status="finished")

        thread = threading.Thread(target=work)
        thread.start()
        begun.wait()
        stack.callback(thread.join)
        return SimpleNamespace(poll=lambda: None if thread.is_alive() else 0)

    monkeypatch.setattr(stages, "start_stage", start)
    monkeypatch.setattr(stages, "wait_for_others", lambda plan: None)
    if terminal:
        monkeypatch.setattr("progress.draws_bars", lambda console=None: True)
        console = Console(force_terminal=True, color_system=None, width=120)
        monkeypatch.setattr(stages, "RunBars", lambda: RunBars(console))
    stages.train_stages(SimpleNamespace(stages={"net.yaml": stage}), side_by_side=False)
    printed = capsys.readouterr().out
    if terminal:
        assert re.search("net .* 4/4 .* epoch 2/2  loss 0.250", printed)
        return
    assert printed.splitlines()[1:] == ["net  epoch 1/2  loss 0.500", "net  epoch 2/2  loss 0.250"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", printed)


def test_ranks_of_one_training_begin_a_stage_together(stage, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stage.run.lock():
        stages.wait_for_others(SimpleNamespace(stages={"net.yaml": stage}))
