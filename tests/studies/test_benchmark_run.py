"""One benchmark for real, at the shrunken scale: killed, repeated, one of its systems broken."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

import cli
from tests.conftest import ROOT, SHRUNKEN

BROKEN = """\
model:
  class_path: lightning_modules.BackboneModule
  init_args:
    network: {class_path: backbones.DynUNet}
    loss: {class_path: monai.losses.DiceLoss, init_args: {weight: [1.0, 2.0]}}
data:
  class_path: datamodules.BraTSPatchDataModule
  init_args: {batch_size: 2}
"""


@pytest.fixture(scope="module")
def place(workplace):
    folder = workplace / "benchmark"
    folder.mkdir()
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


def test_killed_and_repeated_with_one_system_that_fails(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = place / "runs-benchmark"
    words = ["benchmark", "small.yaml", "--runs_dir", str(runs)]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words],
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(runs.glob("dynunet/*/manifest.json")):
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert alive(runs)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    for _ in range(100):  # its jobs notice that it is gone
        if not alive(runs):
            break
        time.sleep(0.1)
    assert not alive(runs)
    state = json.loads((place / "benchmarks" / "small" / "state.json").read_text())["jobs"]
    assert "running" in {entry["status"] for entry in state.values()}

    assert cli.main(words) == 1
    out = capsys.readouterr().out
    assert "Failed: fit broken" in out
    folder = place / "benchmarks" / "small"
    state = json.loads((folder / "state.json").read_text())["jobs"]
    plan = json.loads((folder / "plan.json").read_text())
    told = {(job["kind"], job["experiment"]): state[job["id"]]["status"] for job in plan["jobs"]}
    assert told == {
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


def test_repeated_does_nothing_but_what_is_damaged(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    folder = place / "benchmarks" / "small"
    plan = json.loads((folder / "plan.json").read_text())
    content = yaml.safe_load((place / "small.yaml").read_text())
    content["experiments"].remove("broken.yaml")
    (place / "small.yaml").write_text(yaml.safe_dump(content))
    (cell,) = (cell for cell in plan["cells"] if cell["system"] == "Late fusion")
    table = place / cell["per_case"]
    before = table.read_text()
    table.write_text(before[: len(before) // 2])
    checkpoints = {path: path.stat().st_mtime_ns for path in place.rglob("best.ckpt")}
    assert cli.main(["benchmark", "small.yaml", "--runs_dir", str(place / "runs-benchmark")]) == 0
    out = capsys.readouterr().out
    assert f"{cell['per_case']}" in out
    assert "it is tested again" in out
    assert table.read_text() == before
    assert {path: path.stat().st_mtime_ns for path in place.rglob("best.ckpt")} == checkpoints
