"""A whole benchmark at a small scale: killed, repeated, with one broken system."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import cli
from studies.runs.run import Run
from tests.conftest import ROOT, SHRUNKEN
from tests.trainings import lightning

pytestmark = pytest.mark.slow

BROKEN = """\
model:
  class_path: lightning_modules.BackboneModule
  init_args:
    network: {class_path: backbones.DynUNet}
    loss: {class_path: monai.losses.DiceLoss, init_args: {sigmoid: true, weight: [1.0, 2.0]}}
data:
  class_path: datamodules.BraTSPatchDataModule
  init_args: {batch_size: 2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "broken.yaml").write_text(BROKEN)
    content = {
        "name": "small",
        "reference": "late_fusion",
        "experiments": [
            "broken.yaml",
            {"file": "experiments/late_fusion.yaml", "label": "Late fusion"},
        ],
        "overlays": [str(SHRUNKEN)],
        "options": {"trainer.max_epochs": 1, "data.patches_per_epoch": 4},
        "tables": [{"title": "Table of one"}],
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return folder


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def alive(runs_dir):
    """Processes of this machine that work in a folder of runs, by their command lines."""
    import psutil

    lines = [
        " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    ]
    return [line for line in lines if f"--runs_dir={runs_dir}" in line]


@pytest.fixture(scope="module")
def repeated(place):
    """Status and output of the benchmark, which was killed in its first training and repeated."""
    runs = Path("runs-benchmark")  # relative: tests take copies of it all
    words = ["benchmark", "small.yaml", "--runs_dir", str(runs)]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setenv("OMP_NUM_THREADS", "1")
        own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        first = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *words],
            env=own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 600
        while not list(runs.glob("dynunet/*/manifest.json")):
            assert first.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert alive(runs)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        for _ in range(600):  # its jobs notice that it is gone
            if not alive(runs):
                break
            time.sleep(0.1)
        assert not alive(runs)
        state = json.loads((place / "benchmarks" / "small" / "state.json").read_text())["jobs"]
        assert "running" in {entry["status"] for entry in state.values()}
        return lightning(*words)


@pytest.fixture
def done(place, repeated, tmp_path, monkeypatch):
    """A copy of what the benchmark left, as the working directory; its file lost the broken one."""
    folder = shutil.copytree(place, tmp_path / "done")
    content = yaml.safe_load((folder / "small.yaml").read_text())
    content["experiments"].remove("broken.yaml")
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(folder)
    return folder


def test_killed_and_repeated_with_one_system_that_fails(place, repeated):
    status, out = repeated
    assert status == 1
    assert "Failed: fit broken" in out
    folder = place / "benchmarks" / "small"
    state = json.loads((folder / "state.json").read_text())["jobs"]
    plan = json.loads((folder / "plan.json").read_text())
    found = {(job["kind"], job["experiment"]): state[job["id"]]["status"] for job in plan["jobs"]}
    assert found == {
        ("fit", "dynunet"): "finished",
        ("fit", "segresnet"): "finished",
        ("fit", "late_fusion"): "finished",
        ("test", "late_fusion"): "finished",
        ("fit", "broken"): "failed",
        ("test", "broken"): "blocked",
    }
    broken = next(entry for entry in state.values() if entry["status"] == "failed")
    assert "weight" in broken["message"]
    assert "Traceback" in (place / broken["log"]).read_text()
    scores = rows_of(folder / "results.csv")
    assert {row["system"] for row in scores} == {"Late fusion"}
    (cell,) = (cell for cell in plan["cells"] if cell["system"] == "Late fusion")
    table = rows_of(place / cell["per_case"])
    assert [(row["case_id"], row["dice/WT"]) for row in scores] == [
        (row["case_id"], row["dice/WT"]) for row in table
    ]
    assert len(table) == 2
    assert "Late fusion" in (folder / "tables" / "table-1.md").read_text()
    assert "Table of one" in out
    page = (folder / "report.html").read_text()
    assert "Late fusion" in page
    assert "Table of one" in page


def test_repeated_does_nothing_but_what_is_damaged(done, capsys):
    folder = done / "benchmarks" / "small"
    plan = json.loads((folder / "plan.json").read_text())
    (cell,) = (cell for cell in plan["cells"] if cell["system"] == "Late fusion")
    table = done / cell["per_case"]
    before = table.read_text()
    table.write_text(before[: len(before) // 2])
    checkpoints = {path: path.stat().st_mtime_ns for path in done.rglob("best.ckpt")}
    assert cli.main(["benchmark", "small.yaml", "--runs_dir", "runs-benchmark"]) == 0
    out = capsys.readouterr().out
    assert f"{cell['per_case']}" in out
    assert "It is tested again now" in out
    assert table.read_text() == before
    assert {path: path.stat().st_mtime_ns for path in done.rglob("best.ckpt")} == checkpoints


def only(folder):
    (found,) = folder.iterdir()
    return found


def test_a_dry_run_of_what_is_done_measures_nothing(done, capsys):
    words = ["small.yaml", "--runs_dir", "runs-benchmark", "--dry-run"]
    assert cli.main(["benchmark", *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    finished = [line for line in lines if line[-1:] == ["yes"]]
    assert [line[0] for line in finished] == ["dynunet", "segresnet", "late_fusion", "test"]
    assert finished[2][2:4] == ["dynunet,", "segresnet"]


def test_a_sweep_over_what_is_done_orders_it(done, capsys):
    parameters = {"data.patches_per_epoch": {"values": [4]}, "trainer.max_epochs": {"value": 1}}
    command = ["${env}", "lightning", "fit", "--config", "experiments/dynunet.yaml"]
    sweep = {
        "program": "cli.py",
        "command": [*command, "--config", str(SHRUNKEN), "${args}"],
        "method": "grid",
        "metric": {"name": "val/dice/WT", "goal": "maximize"},
        "parameters": parameters,
    }
    (done / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert cli.main(["sweep", "sweep.yaml", "--runs_dir", "runs-benchmark"]) == 0
    out = capsys.readouterr().out
    assert "begins" not in out
    (row,) = rows_of(done / "sweeps" / "sweep" / "trials.csv")
    run = only(Path("runs-benchmark", "dynunet"))
    assert row["run"] == str(run)
    scores = json.loads((run / "manifest.json").read_text())["scores"]
    heads = [line.split()[:3] for line in out.splitlines()]
    assert ["trial", "patches_per_epoch", "max_epochs"] in heads  # their short names
    assert float(row["val/dice/WT"]) == pytest.approx(scores["val/dice/WT"], abs=1e-6)


def test_a_run_is_trained_again_to_the_last_bit(done, capsys):
    run = only(Path("runs-benchmark", "dynunet"))
    assert cli.main(["reproduce", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Weights of the best checkpoints: equal to the last bit." in out
    assert "reproduced, largest difference 0, tolerance 0.001" in out
    again = only(done / "reproductions" / "dynunet")
    assert again.name == run.name

    manifest = json.loads((run / "manifest.json").read_text())
    manifest["validation_cases"][0]["WT"] += 0.01
    manifest["versions"]["torch"] = "1.0"
    manifest["cohort"] = "other patients"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["reproduce", str(run)]) == 1  # compared again, not trained again
    out = capsys.readouterr().out
    assert "begins" not in out
    for named in ("NOT reproduced", "version torch", "data fingerprint"):
        assert named in out

    outdated = Run("dynunet", again.name, again)
    outdated.update_manifest(versions={**outdated.manifest()["versions"], "torch": "0.9"})
    with outdated.lock():  # it would be moved aside and trained again
        assert cli.main(["reproduce", str(run)]) == 2
    printed = capsys.readouterr()
    assert "version torch 0.9 then" in printed.out
    assert "cannot be moved aside" in printed.err


def test_a_test_without_a_modality_leaves_the_runs_own_scores_alone(done):
    run = only(done / "runs-benchmark" / "late_fusion")
    own, manifest = (run / name for name in ("per_case.csv", "manifest.json"))
    before = own.read_text(), manifest.read_text()
    words = ["--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.drop", "[t1, flair]"]
    assert cli.main(["test", *words]) == 0
    assert (own.read_text(), manifest.read_text()) == before
    dropped = rows_of(run / "without-t1-flair" / "per_case.csv")
    assert [row["case_id"] for row in dropped] == [row["case_id"] for row in rows_of(own)]
    assert [row["dice/WT"] for row in dropped] != [row["dice/WT"] for row in rows_of(own)]
