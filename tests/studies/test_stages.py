"""Stages that another process trains are waited for: two agents of one sweep share them."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from studies import stages
from studies.runs import Run


@pytest.fixture
def stage(tmp_path):
    return SimpleNamespace(stages={}, run=Run("net", "abc", tmp_path / "net" / "abc"))


def train(run, begun):
    """Train as another process would."""
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
    monkeypatch.setattr(stages, "_start", None)  # nothing is trained here
    begin(stage.run)
    stages.train_stages(SimpleNamespace(stages={"net.yaml": stage}), side_by_side=False)
    assert stage.run.finished
    printed = capsys.readouterr().out
    assert "Stage net.yaml: another process trains it, waiting: " in printed
    assert "Stage net.yaml: trained before" in printed


@pytest.mark.parametrize("side_by_side", [True, False])
def test_so_is_one_that_another_process_began_a_moment_before(
    side_by_side, stage, monkeypatch, capsys
):
    def start(plan, index, threads, stack):
        begin(plan.run)  # the one started here comes too late
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    monkeypatch.setattr(stages, "_start", start)
    plan = SimpleNamespace(stages={"net.yaml": stage})
    stages.train_stages(plan, side_by_side=side_by_side)
    assert stage.run.finished


def test_ranks_of_one_training_begin_a_stage_together(stage, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stage.run.lock():
        stages._wait_for_others(SimpleNamespace(stages={"net.yaml": stage}))
