"""SIGKILL at any moment, then the same command with --resume: the same weights to the last bit."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

import cli
from lightning_modules.weights.checkpoints import read_card
from tests.conftest import ROOT, SHRUNKEN, SHRUNKEN_SLICES
from tests.wandb_decoder import stored

pytestmark = pytest.mark.slow

EPOCHS = "3"


def command(name, runs_dir, *words):
    config = ["--config", f"experiments/{name}.yaml", "--config", str(SHRUNKEN)]
    settings = ["--trainer.max_epochs", EPOCHS, "--data.patches_per_epoch", "8"]
    if name == "fusion":  # its global attention takes most of the time, and resumes like the rest
        settings += ["--model.head.init_args.parts", "[early, local]"]
    return ["fit", *config, *settings, "--runs_dir", runs_dir, *words]


@pytest.fixture(autouse=True)
def one_thread(in_workplace, monkeypatch):
    """The promise is for one thread count."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def unlogged(monkeypatch):
    """Leave W&B out, where a test is not about it."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


def kill_in(name, runs, words, beside=()):
    """Kill a command, its first process alone, once one of its trainings can be resumed.

    It is thrown away and tried again where that training was through, which would not show that, or
    one `beside` it: W&B may have lost the curve of a training that is not resumed.
    """
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *words], env=without_service(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while not any(runs.glob(f"{name}/*/checkpoints/last.ckpt")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
        wait_until_free(runs)
        if not any(_is_through(runs / one) for one in (name, *beside)):
            return
        shutil.rmtree(runs / name if "--resume" in words else runs)
    raise AssertionError(f"{name} ended before it could be killed")


def without_service():
    """The environment without the W&B service of this process: a terminal has none either."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


def wait_until_free(runs):
    """Wait until the stages of a killed command have ended with their parent."""
    for _ in range(600):
        if all(_is_free(folder) for folder in runs.glob("*/*")):
            break
        time.sleep(0.1)


def _is_through(folder):
    """Whether an experiment's run has trained its last epoch."""
    return any(
        torch.load(last, map_location="cpu", weights_only=True)["epoch"] + 1 >= int(EPOCHS)
        for last in folder.glob("*/checkpoints/last.ckpt")
    )


def check_same_ending(first, second):
    """The same weights at the best and at the last epoch, and the same scores."""
    for name in ("best", "last"):
        ours, theirs = (
            torch.load(run / "checkpoints" / f"{name}.ckpt", map_location="cpu", weights_only=True)
            for run in (first, second)
        )
        assert ours["epoch"] == theirs["epoch"]
        assert set(ours["state_dict"]) == set(theirs["state_dict"])
        for key, value in ours["state_dict"].items():
            assert torch.equal(value, theirs["state_dict"][key]), (name, key)
    assert ours["epoch"] == int(EPOCHS) - 1  # the last one, whichever was the best
    assert metrics_of(first) == metrics_of(second)
    scores = [json.loads((run / "manifest.json").read_text())["scores"] for run in (first, second)]
    assert scores[0] == scores[1]


def metrics_of(folder):
    with (folder / "metrics.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def only(folder):
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def test_killed_in_stage_one_and_in_stage_two(workplace, capsys):
    for name in ("dynunet", "segresnet", "fusion"):  # each in this process, as one after the other
        assert cli.main(command(name, "runs-whole")) == 0
    whole, killed = workplace / "runs-whole", workplace / "runs-killed"
    words = command("fusion", "runs-killed")
    kill_in("dynunet", killed, words, beside=["segresnet"])
    capsys.readouterr()
    assert cli.main(words) == 2
    assert "--resume" in capsys.readouterr().err
    resume = [*words, "--resume"]
    kill_in("fusion", killed, resume)
    assert cli.main(resume) == 0

    groups = set()
    for name in ("dynunet", "segresnet", "fusion"):
        first, second = only(whole / name), only(killed / name)
        assert first.name == second.name  # the same identity
        check_same_ending(first, second)
        assert [float(row["epoch"]) for row in metrics_of(second)] == list(range(int(EPOCHS)))
        folders = stored(second, patience=0)
        curve = [row for folder in folders for row in folder.history if "train/loss" in row]
        for name in ("epoch", "_step"):  # one curve over several folders, none of it twice
            values = [row[name] for row in curve]
            assert values == sorted(set(values)), (name, values)
        assert curve[-1]["epoch"] == int(EPOCHS) - 1
        groups |= {folder.group for folder in folders if folder.history}
        kinds = {folder.job_type for folder in folders if folder.history}
        assert kinds == {"fusion" if second.parent.name == "fusion" else "backbone"}
        filed = json.loads((second / "manifest.json").read_text())["tracking"]
        assert {folder.id for folder in folders if folder.history} == {filed["id"]}
        assert filed["id"].startswith(f"{second.name}-")
    assert len(groups) == 1  # backbones that were trained in the background lie beside the fusion


def test_adapter_killed_goes_on_to_the_same_weights(workplace, unlogged):
    def words(runs_dir):
        files = ["--config", "experiments/sam_adapter.yaml", "--config", str(SHRUNKEN_SLICES)]
        settings = ["--trainer.max_epochs", EPOCHS, "--model.weights", "random"]
        settings += ["--data.num_workers", "2"]  # which are asked ahead of the training
        return ["fit", *files, *settings, "--runs_dir", runs_dir]

    whole, killed = workplace / "runs-adapter-whole", workplace / "runs-adapter-killed"
    assert cli.main(words("runs-adapter-whole")) == 0
    kill_in("sam_adapter", killed, words("runs-adapter-killed"))
    rules = ["--model.postprocessing", "{component_share: 0.5}"]  # they change no weight
    assert cli.main([*words("runs-adapter-killed"), "--resume", *rules]) == 0
    first, second = only(whole / "sam_adapter"), only(killed / "sam_adapter")
    assert first.name == second.name
    check_same_ending(first, second)
    card = read_card(second / "checkpoints" / "best.ckpt")
    for model in (card["model"], card["config"]["model"]):
        assert model["init_args"]["postprocessing"]["component_share"] == 0.5
    assert "50%" in json.loads((second / "manifest.json").read_text())["postprocessing"]


def test_adversarial_stage_killed_goes_on_with_both_optimisers_and_its_pools(workplace, unlogged):
    name = "zhang2021_transition"
    short = ["--model.pool_size", "4"]  # full before the training is killed
    whole, killed = workplace / "runs-gan-whole", workplace / "runs-gan-killed"
    words = command(name, "runs-gan-killed", *short)
    assert cli.main(command(name, "runs-gan-whole", *short)) == 0
    kill_in(name, killed, words)
    assert cli.main([*words, "--resume"]) == 0
    first, second = only(whole / name), only(killed / name)
    assert first.name == second.name
    ours, theirs = (
        torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        for run in (first, second)
    )
    assert len(ours["optimizer_states"]) == 2
    assert [len(pool) for pool in ours["image_pools"][0]] == [4, 4]
    for key in ("optimizer_states", "image_pools"):
        assert _same(ours[key], theirs[key]), key
    check_same_ending(first, second)
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
