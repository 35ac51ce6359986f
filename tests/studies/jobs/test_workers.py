"""Workers of one machine: which GPU a task gets."""

import argparse
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from errors import InputError
from studies.jobs import placement
from studies.jobs.workers import LocalWorkers, Task


@pytest.fixture
def workers(tmp_path):
    """Workers, and a function that starts a task and returns the GPU that it sees."""
    made = LocalWorkers(5, 1, ["GPU-a", "GPU-b"])

    def start(name):
        task = Task(name, [], tmp_path / f"{name}.log", tmp_path)
        task.start = lambda: subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
        )
        made.start(task, None)
        return task.environment["CUDA_VISIBLE_DEVICES"]

    yield made, start
    made.stop()


def test_a_task_gets_the_gpu_with_the_fewest(workers):
    made, start = workers
    assert [start(name) for name in "abc"] == ["GPU-a", "GPU-b", "GPU-a"]
    process, _ = made.processes["b"]
    process.communicate(b"\n")
    assert made.ended() == {"b": 0}
    assert [start(name) for name in "de"] == ["GPU-b", "GPU-b"]


def test_one_task_is_ended_and_the_others_go_on(workers):
    made, start = workers
    for name in "abcde":
        start(name)
    assert not made.is_idle()
    made.end("c")
    while not (ended := made.ended()):
        time.sleep(0.05)
    assert ended == {"c": -signal.SIGTERM}
    assert made.is_idle()
    assert set(made.processes) == {"a", "b", "d", "e"}


@pytest.mark.parametrize(
    ("seen", "names"),
    [("", ["0", "1"]), ("4, GPU-7f", ["4", "GPU-7f"]), ("0,1,2", ["0", "1"])],
)
def test_gpus_go_by_the_names_that_their_processes_know(monkeypatch, seen, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("studies.settings.trainer.choose_device", lambda _: "cuda")
    assert placement.gpus_of([]) == []  # no job, no GPU
    job = SimpleNamespace(plan=SimpleNamespace(config={"trainer": {"accelerator": "auto"}}))
    assert placement.gpus_of([job]) == names


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cpus_per_job", "4"], "--cpus_per_job is for jobs on a Ray cluster"),
        (["--gpus_per_job", "0.5"], "--gpus_per_job is for jobs on a Ray cluster"),
        (["--jobs", "0"], "--jobs is 0: expected"),
        (["--ray", "a", "--cpus_per_job", "0"], "--cpus_per_job is 0: expected"),
        (["--ray", "a", "--gpus_per_job", "-1"], "--gpus_per_job is -1: expected"),
    ],
)
def test_options_that_cannot_be_are_refused(words, sentence):
    parser = argparse.ArgumentParser()
    placement.add_options(parser)
    with pytest.raises(InputError, match=sentence):
        placement.check_options(parser.parse_args(words))


@pytest.mark.parametrize(
    ("devices", "wanted", "at_once", "threads", "gpus"),
    [
        ("auto", None, 2, 4, ["0", "1"]),  # a GPU each
        (1, 1, 1, 8, ["0", "1"]),  # a reproduction: one of them
        (2, 1, 1, 8, []),  # both, dealt out by the trainer
    ],
)
def test_a_training_that_leaves_its_devices_open_gets_one_gpu(
    monkeypatch, devices, wanted, at_once, threads, gpus
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("studies.settings.trainer.choose_device", lambda _: "cuda")
    monkeypatch.setattr(placement, "cores", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    trainer = {"accelerator": "auto", "devices": devices}
    job = SimpleNamespace(plan=SimpleNamespace(config={"trainer": trainer}))
    made = placement.local_workers(wanted, [job])
    assert (made.jobs, made.threads, made.gpus) == (at_once, threads, gpus)
