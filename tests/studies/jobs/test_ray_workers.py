"""Jobs on a real Ray cluster of two nodes, one of which dies in the middle of its job."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from errors import InputError
from lightning_modules.weights.checkpoints import read_checkpoint
from studies.jobs.engine import Engine
from studies.jobs.graph import JobGraph
from studies.jobs.ray_workers import RayWorkers, cores_of_a_job, do, slots
from studies.jobs.workers import Task
from studies.training.fit_parser import make_planner
from tests.conftest import SHRUNKEN
from tests.studies.jobs.test_engine import Quiet


def test_without_ray_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install .*\[ray\]"):
        RayWorkers("auto", 1, 0)


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path):
    task = Task("a", ["fit"], tmp_path / "log", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{socket.gethostname()} does not see .*elsewhere: mount"):
        do(task)


def test_what_ray_says_of_a_task_that_could_not_begin_is_kept(tmp_path):
    class RayError(Exception):
        pass

    def get(_):
        raise RayError("The remote function failed to import:\nNo module named 'studies'\n")

    workers = RayWorkers.__new__(RayWorkers)
    workers.ray = SimpleNamespace(
        wait=lambda references, timeout: (references, []),
        get=get,
        exceptions=SimpleNamespace(RayError=RayError),
    )
    task = Task("a", ["fit"], tmp_path / "logs" / "a.log", tmp_path)
    workers.references = {"a": (object(), task)}
    assert workers.ended() == {"a": 70}
    assert workers.references == {}
    assert task.last_line() == "No module named 'studies'"


@pytest.mark.parametrize(
    ("nodes", "gpus", "multi_device", "cores"),
    [
        ([{"CPU": 16}], 0, False, 8),  # two at once, as on one machine
        ([{"CPU": 16}], 0, True, 16),
        ([{"CPU": 16}, {"CPU": 4}, {"GPU": 1}], 0, False, 2),  # the smallest that has any
        ([{"CPU": 16}, {"CPU": 32, "GPU": 4}], 1, False, 8),  # a GPU each
        ([{"CPU": 32, "GPU": 4}], 0.5, False, 4),
        ([{"CPU": 32, "GPU": 4}], 4, True, 32),
        ([{"CPU": 1}], 0, False, 1),
        ([], 0, False, 1),
    ],
)
def test_a_job_gets_the_cores_that_it_would_have_without_ray(nodes, gpus, multi_device, cores):
    assert cores_of_a_job(nodes, gpus, multi_device=multi_device) == cores


@pytest.mark.parametrize(
    ("nodes", "cores", "gpus", "expected"),
    [
        ([{"CPU": 16}, {"CPU": 7}, {"GPU": 1}], 4, 0, 5),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 16}], 4, 1, 2),
        ([{"CPU": 16, "GPU": 2}], 4, 0.25, 4),
        ([], 4, 0, 0),
    ],
)
def test_how_many_jobs_nodes_do_at_once(nodes, cores, gpus, expected):
    assert slots(nodes, cores, gpus) == expected


def test_a_task_is_ended_and_its_process_with_it(tmp_path):
    class Sleeper(Task):
        def start(self):
            process = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE)
            self.log.write_text(f"{process.pid}\n")
            return process

    workers = RayWorkers("local", 1, 0)
    try:
        assert workers.is_idle()
        task = Sleeper("a", [], tmp_path / "pid", tmp_path)
        workers.start(task, None)
        deadline = time.monotonic() + 120
        while not task.log.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers.end("a")
        while not (ended := workers.ended()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ended == {"a": 70}
        pid = int(task.log.read_text().split()[0])
        while psutil.pid_exists(pid):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        workers.stop()


def node_of(runs_dir, nodes):
    """The node below whose raylet a training runs."""
    for process in psutil.process_iter(["cmdline"]):
        if f"--runs_dir={runs_dir}" in (process.info["cmdline"] or []):
            above = {parent.pid for parent in process.parents()}
            for node in nodes:
                if node.all_processes["raylet"][0].process.pid in above:
                    return node
    raise AssertionError("no node trains")


@pytest.mark.slow
def test_a_node_dies_and_its_job_is_done_on_the_other(in_workplace, monkeypatch):
    from ray.cluster_utils import Cluster

    from studies.settings.command_line import CommandLine

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 would wait for all other tests
    line = CommandLine(["experiments/dynunet.yaml", str(SHRUNKEN)])
    line.options = CommandLine.parse(
        ["--trainer.max_epochs=3", "--data.patches_per_epoch=24"]
    ).options
    graph = JobGraph()
    graph.add_training(make_planner(Path("runs-ray")).plan(line))
    (job,) = graph.ordered()
    here = JobGraph()
    here.add_training(make_planner(Path("runs-here")).plan(line))
    (same,) = here.ordered()
    log = Path("study-ray/here.log").resolve()
    alone = Task("here", same.words, log, Path.cwd(), environment={"OMP_NUM_THREADS": "1"}).start()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        workers = RayWorkers(cluster.address, 1, 0)
        killed, left = [], []

        class Killer(Quiet):
            def progress(self, running):
                if killed or not job.run.last_checkpoint.is_file():
                    return
                killed.append(node_of("runs-ray", nodes))
                cluster.remove_node(killed[0], allow_graceful=False)
                left.append(read_checkpoint(job.run.last_checkpoint)["epoch"])

        engine = Engine(Path("study-ray"), [job], workers, Killer())
        try:
            assert engine.run()
        finally:
            workers.stop()
        assert killed
        assert left[0] < 2  # there was something left to train
    finally:
        cluster.shutdown()
    manifest = json.loads((job.run.folder / "manifest.json").read_text())
    assert "--resume" in manifest["command"]  # it went on elsewhere, it did not begin again
    epochs = [row.split(",")[0] for row in job.run.metrics_file.read_text().splitlines()[1:]]
    assert epochs == ["0", "1", "2"]
    assert alone.wait() == 0
    one, other = (read_checkpoint(run.last_checkpoint)["state_dict"] for run in (job.run, same.run))
    assert all(torch.equal(one[name], other[name]) for name in one)
