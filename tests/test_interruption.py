"""SIGKILL at any moment, then the same command with --resume: the same weights to the last bit."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import cli
from tests.conftest import ROOT, SHRUNKEN, SHRUNKEN_SLICES
from tests.wandb_decoder import stored

EPOCHS = "3"


def command(name, runs_dir, *words):
    config = ["--config", f"experiments/{name}.yaml", "--config", str(SHRUNKEN)]
    settings = ["--trainer.max_epochs", EPOCHS, "--data.patches_per_epoch", "8"]
    program = [sys.executable, str(ROOT / "cli.py"), "fit"]
    return [*program, *config, *settings, "--runs_dir", runs_dir, *words]


@pytest.fixture(scope="module")
def environment(workplace):
    threads = {"OMP_NUM_THREADS": "1"}  # the promise is for one thread count
    # without the W&B service of the tests that ran in this process: a terminal has none either
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**own, **threads, "GLIOFUSE_CACHE": str(workplace / "cache")}


@pytest.fixture(scope="module")
def unlogged(environment):
    """Without W&B, where a test is not about it."""
    return {**environment, "WANDB_MODE": "disabled"}


def finish(words, folder, environment):
    result = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def kill_after(words, folder, environment, reached):
    """Start a training in a session of its own and kill the first process alone."""
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def metrics_of(folder):
    with (folder / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def last_weights(folder):
    file = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    assert checkpoint["epoch"] == int(EPOCHS) - 1  # of the last epoch, whichever was the best
    return checkpoint["state_dict"]


def can_go_on(runs, name):
    """Whether a training left what the next one begins from, so that it does not begin anew."""
    return any(runs.glob(f"{name}/*/checkpoints/last.ckpt"))


def only(folder):
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def test_killed_in_stage_one_and_in_stage_two(workplace, environment, monkeypatch, capsys):
    finish(command("fusion", "runs-whole"), workplace, environment)
    whole, killed = workplace / "runs-whole", workplace / "runs-killed"
    words = command("fusion", "runs-killed")

    def stage_one_has_begun():
        return can_go_on(killed, "dynunet")

    kill_after(words, workplace, environment, stage_one_has_begun)
    for _ in range(100):  # the stages notice that their parent is gone, and stop
        if all(_is_free(folder) for folder in killed.glob("*/*")):
            break
        time.sleep(0.1)
    with monkeypatch.context() as here:
        here.chdir(workplace)
        here.setenv("GLIOFUSE_CACHE", environment["GLIOFUSE_CACHE"])
        assert cli.main(words[2:]) == 2
    assert "--resume" in capsys.readouterr().err

    def stage_two_has_begun():
        return can_go_on(killed, "fusion")

    resume = [*words, "--resume"]
    kill_after(resume, workplace, environment, stage_two_has_begun)
    finish(resume, workplace, environment)

    for name in ("dynunet", "segresnet", "fusion"):
        first, second = only(whole / name), only(killed / name)
        assert first.name == second.name  # the same identity
        ours, theirs = last_weights(first), last_weights(second)
        assert set(ours) == set(theirs)
        different = [key for key in ours if not torch.equal(ours[key], theirs[key])]
        assert not different, (name, different[:3])
        assert metrics_of(first) == metrics_of(second)
        assert [float(row["epoch"]) for row in metrics_of(second)] == list(range(int(EPOCHS)))
        folders = stored(second, patience=0)
        curve = [row for folder in folders for row in folder.history if "train/loss" in row]
        for name in ("epoch", "_step"):  # one curve over several folders, none of it twice
            values = [row[name] for row in curve]
            assert values == sorted(set(values)), (name, values)
        assert curve[-1]["epoch"] == int(EPOCHS) - 1
        filed = json.loads((second / "manifest.json").read_text())["tracking"]
        assert {folder.id for folder in folders if folder.history} == {filed["id"]}
        assert filed["id"].startswith(f"{second.name}-")


def test_adapter_killed_goes_on_to_the_same_weights(workplace, unlogged):
    def words(runs_dir):
        files = ["--config", "experiments/sam_adapter.yaml", "--config", str(SHRUNKEN_SLICES)]
        settings = ["--trainer.max_epochs", EPOCHS, "--model.weights", "random"]
        program = [sys.executable, str(ROOT / "cli.py"), "fit"]
        return [*program, *files, *settings, "--runs_dir", runs_dir]

    finish(words("runs-adapter-whole"), workplace, unlogged)
    whole, killed = workplace / "runs-adapter-whole", workplace / "runs-adapter-killed"

    def training_has_begun():
        return can_go_on(killed, "sam_adapter")

    kill_after(words("runs-adapter-killed"), workplace, unlogged, training_has_begun)
    finish([*words("runs-adapter-killed"), "--resume"], workplace, unlogged)
    first, second = only(whole / "sam_adapter"), only(killed / "sam_adapter")
    assert first.name == second.name
    ours, theirs = last_weights(first), last_weights(second)
    assert not any(name.startswith("network.encoder.") for name in ours)
    assert set(ours) == set(theirs)
    assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert metrics_of(first) == metrics_of(second)


def test_adversarial_stage_killed_goes_on_with_both_optimisers_and_its_pools(workplace, unlogged):
    name = "zhang2021_transition"
    short = ["--model.pool_size", "4"]  # full before the training is killed
    finish(command(name, "runs-gan-whole", *short), workplace, unlogged)
    whole, killed = workplace / "runs-gan-whole", workplace / "runs-gan-killed"

    def training_has_begun():
        return can_go_on(killed, name)

    words = command(name, "runs-gan-killed", *short)
    kill_after(words, workplace, unlogged, training_has_begun)
    finish([*words, "--resume"], workplace, unlogged)
    first, second = only(whole / name), only(killed / name)
    assert first.name == second.name
    ours, theirs = (
        torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        for run in (first, second)
    )
    assert len(ours["optimizer_states"]) == 2
    assert [len(pool) for pool in ours["image_pools"][0]] == [4, 4]
    for key in ("state_dict", "optimizer_states", "image_pools"):
        assert _same(ours[key], theirs[key]), key
    assert metrics_of(first) == metrics_of(second)
    best = torch.load(first / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    assert "image_pools" not in best


def _same(ours, theirs):
    """Whether nested dictionaries and lists hold the same tensors and values."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return set(ours) == set(theirs) and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    return ours == theirs


def _is_free(folder):
    import fcntl

    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
