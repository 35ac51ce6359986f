"""Jobs on a real Ray cluster of two nodes, one of which dies in the middle of its job."""

import json
import sys
from pathlib import Path

import psutil
import pytest
import torch

from errors import InputError
from lightning_modules.checkpoints import read_checkpoint
from studies.engine import Engine
from studies.jobs import JobGraph
from studies.ray_workers import RayWorkers
from studies.resolving import make_planner
from studies.workers import Task
from tests.conftest import SHRUNKEN
from tests.studies.test_engine import Quiet


def test_without_ray_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install .*\[ray\]"):
        RayWorkers("auto", 1, 0)


def node_of(runs_dir, nodes):
    """The node below whose raylet a training runs."""
    for process in psutil.process_iter(["cmdline"]):
        if f"--runs_dir={runs_dir}" in (process.info["cmdline"] or []):
            above = {parent.pid for parent in process.parents()}
            for node in nodes:
                if node.all_processes["raylet"][0].process.pid in above:
                    return node
    raise AssertionError("no node trains")


def test_a_node_dies_and_its_job_is_done_on_the_other(in_workplace, monkeypatch):
    from ray.cluster_utils import Cluster

    from studies.arguments import CommandLine

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    line = CommandLine(["experiments/dynunet.yaml", str(SHRUNKEN)])
    line.options = CommandLine.parse(
        ["--trainer.max_epochs=3", "--data.patches_per_epoch=16"]
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
        killed = []

        class Killer(Quiet):
            def progress(self, running):
                if killed or not job.run.metrics_file.is_file():
                    return
                killed.append(node_of("runs-ray", nodes))
                cluster.remove_node(killed[0], allow_graceful=False)

        engine = Engine(Path("study-ray"), [job], workers, Killer())
        try:
            assert engine.run()
        finally:
            workers.stop()
        assert killed
    finally:
        cluster.shutdown()
    manifest = json.loads((job.run.folder / "manifest.json").read_text())
    assert "--resume" in manifest["command"]  # it went on elsewhere, it did not begin again
    epochs = [row.split(",")[0] for row in job.run.metrics_file.read_text().splitlines()[1:]]
    assert epochs == ["0", "1", "2"]
    assert alone.wait() == 0
    one, other = (read_checkpoint(run.last_checkpoint)["state_dict"] for run in (job.run, same.run))
    assert all(torch.equal(one[name], other[name]) for name in one)
