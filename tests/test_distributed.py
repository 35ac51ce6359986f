"""Two gloo processes: the losses of one process on the same global batch, no patient twice."""

import csv
import json
import subprocess
import sys

import pytest
import torch

import cli
from tests.conftest import ROOT, SHRUNKEN, SHRUNKEN_SLICES

pytestmark = pytest.mark.slow

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def unlogged(in_workplace, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")


def lightning(together, alone=None):
    """Run a command in processes of its own, and meanwhile perhaps another in this one."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *together],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    status = cli.main(alone) if alone else 0
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert status == 0


def fit(name, runs_dir, *words, folds=2):
    config = ["--config", f"experiments/{name}.yaml", "--config", str(SHRUNKEN)]
    exact = ["--trainer.precision", "32-true", "--runs_dir", runs_dir, "--data.n_folds", str(folds)]
    return ["fit", *config, *exact, *words]


# Batch norm and Dice over the batch would see half a batch on each device; nothing else does.
OF_SAMPLES = ["--model.network.init_args.norm", "instance", "--model.loss.batch", "false"]
# Adam's first step is the sign of the gradient, also where that is rounding alone.
SGD = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr"]


def only(folder):
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def metrics_of(folder):
    with (folder / "metrics.csv").open(newline="") as handle:
        return [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(handle)
        ]


def test_two_processes_train_as_one(workplace):
    words = [*OF_SAMPLES, *SGD, "0.1"]
    alone = fit("dynunet", "runs-one", *words)
    together = fit("dynunet", "runs-two", *words, *TWO)
    lightning(together, alone)
    one, two = only(workplace / "runs-one" / "dynunet"), only(workplace / "runs-two" / "dynunet")
    assert one.name == two.name  # devices are no part of a run's identity
    first, second = metrics_of(one), metrics_of(two)
    assert len(first) == len(second) == 2
    for ours, theirs in zip(first, second, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        assert ours["val/dice/WT"] == pytest.approx(theirs["val/dice/WT"], abs=5e-3)
    manifests = [json.loads((run / "manifest.json").read_text()) for run in (one, two)]
    patients = [[row["case_id"] for row in found["validation_cases"]] for found in manifests]
    assert patients[0] == patients[1] == sorted(set(patients[0]))
    assert manifests[1]["execution"]["devices"] == 2


def test_two_processes_train_the_adapter_as_one(workplace):
    config = ["--config", "experiments/sam_adapter.yaml", "--config", str(SHRUNKEN_SLICES)]
    exact = ["--trainer.precision", "32-true", "--model.weights", "random"]
    commands = [
        ["fit", *config, *exact, "--runs_dir", runs_dir, *devices]
        for runs_dir, devices in (("runs-adapter-two", TWO), ("runs-adapter-one", []))
    ]
    lightning(*commands)
    one, two = (
        only(workplace / runs_dir / "sam_adapter")
        for runs_dir in ("runs-adapter-one", "runs-adapter-two")
    )
    assert one.name == two.name
    for ours, theirs in zip(metrics_of(one), metrics_of(two), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-3)
        assert ours["val/dice/WT"] == pytest.approx(theirs["val/dice/WT"], abs=5e-3)


def test_two_processes_train_the_adversarial_stage_as_one(workplace):
    """One step: the sign in the gradient of L1 makes rounding visible, and more so every step."""
    name = "zhang2021_transition"
    words = ["--trainer.max_epochs", "1", "--data.patches_per_epoch", "2"]
    words += [*SGD, "0.01"]
    commands = [
        fit(name, runs_dir, *devices, *words, folds=5)
        for runs_dir, devices in (("runs-gan-two", TWO), ("runs-gan-one", []))
    ]
    lightning(*commands)
    one, two = (only(workplace / runs_dir / name) for runs_dir in ("runs-gan-one", "runs-gan-two"))
    (ours,), (theirs,) = metrics_of(one), metrics_of(two)
    for key in ("train/cycle", "train/adversarial", "train/discriminator", "val/loss"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-3), key
    first, second = (
        torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        for run in (one, two)
    )
    for key, weight in first["state_dict"].items():
        error = (weight - second["state_dict"][key]).norm() / weight.norm()
        assert error < 1e-3, key  # of a gradient that was not shared it would be a hundredth
    assert len(second["image_pools"]) == 2  # one of each process


def test_late_fusion_and_test_on_two_devices(workplace):
    short = ["--data.patches_per_epoch", "2", "--trainer.max_epochs", "1"]
    assert cli.main(fit("segresnet", "runs-late", *short)) == 0  # the other stage is trained on two
    lightning(fit("late_fusion", "runs-late", *TWO, *short))
    folder = only(workplace / "runs-late" / "late_fusion")
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    config = ["--config", "experiments/late_fusion.yaml", "--runs_dir", "runs-late"]
    lightning(["test", *config, *TWO])
    with (folder / "per_case.csv").open(newline="") as handle:
        ids = [row["case_id"] for row in csv.DictReader(handle)]
    split = json.loads((folder / "split.json").read_text())
    assert ids == sorted(split["test"])
    assert len(ids) == 5  # does not divide by two: the sampler repeats one, the table does not
