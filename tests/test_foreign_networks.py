"""The commands on networks of other projects: fused, tested, compared, and as initial weights."""

import contextlib
import json

import pytest
import torch

import cli
from lightning_modules.weights.checkpoints import load_module
from studies.runs.run import run_at
from studies.scores.provenance import provenance_of
from studies.scores.tested import find_tested
from tests.conftest import SHRUNKEN
from tests.foreign_files import plans, write_bundle, write_results
from tests.trainings import lightning, only_run

SPACING = 8.0  # of the shrunken phantoms
FUSE = ["--config", "experiments/late_fusion.yaml", "--config", str(SHRUNKEN)]
BOTH = ["--model.backbones", "[bundle, nnunet_results]"]
DOUBT = "may have seen the test patients, as its training patients are not known"
NAMES = "MONAI bundle bundle, nnU-Net Dataset137_BraTS2021 3d_fullres fold 0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two foreign networks, their late fusion and its test."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    write_bundle(folder / "bundle", spacing=SPACING)
    plan = plans(spacing=[SPACING] * 3, patch_size=[24, 24, 24])
    write_results(folder / "nnunet_results", plan)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "disabled")
        status, fitted = lightning("fit", *FUSE, *BOTH)
        assert status == 0, fitted
        status, tested = lightning("test", *FUSE[:2], *BOTH)
        assert status == 0, tested
    return folder, fitted, tested


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place[0])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return place[0]


def test_late_fusion_of_two_foreign_networks_trains_nothing(place):
    folder, fitted, _ = place
    assert "0 trained (0.0 %)" in fitted
    assert f"Note: {DOUBT}: {NAMES}" in " ".join(fitted.split())
    assert "data.normalisation is brain, taken over from nnU-Net" in " ".join(fitted.split())
    run = run_at(only_run(folder / "runs", "late_fusion"))
    manifest = run.manifest()
    assert manifest["foreign"]["unknown"] == NAMES.split(", ")
    assert manifest["foreign"]["bundle"]["name"] == "MONAI bundle bundle"
    digest = manifest["foreign"]["bundle"]["sha256"]
    backbones = manifest["determinants"]["model"]["init_args"]["backbones"]
    assert backbones[0] == f"file:{digest}"
    assert manifest["determinants"]["data"]["normalisation"] == "brain"
    assert not manifest["synthetic"]
    module = load_module(run.best_checkpoint)  # whole: the files are not needed any more
    image = torch.randn(1, 4, 24, 24, 24)
    with torch.no_grad():
        mean = sum(one.eval()(image).sigmoid() for one in module.networks) / 2
        torch.testing.assert_close(module(image).sigmoid(), mean, atol=1e-5, rtol=1e-5)


def test_tables_say_that_they_may_have_seen_the_test_patients(place, here):
    assert f"Note {DOUBT}: {NAMES}" in " ".join(place[2].split())
    remarks = provenance_of([find_tested("late_fusion", here / "runs")]).remarks
    assert f"{DOUBT}: late_fusion + shrunken ({NAMES})" in remarks


def test_ids_make_the_leak_guard_work_and_take_the_remark_away(here, capsys):
    split = json.loads((only_run(here / "runs", "late_fusion") / "split.json").read_text())
    ids = here / "ids.txt"
    ids.write_text("\n".join(split["test"][:1]))
    words = ["fit", *FUSE, *BOTH, "--model.trained_on", str(ids), "--runs_dir", "runs-known"]
    assert cli.main(words) == 2
    assert (
        "bundle was trained or selected on 1 of the test patients of this experiment "
        f"({split['test'][0]})" in capsys.readouterr().err
    )
    ids.write_text("BraTS2021_00006\n")
    assert cli.main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert DOUBT not in printed
    assert "none of the 1 ids that bundle was trained on, such as BraTS2021_00006" in printed
    run = run_at(only_run(here / "runs-known", "late_fusion"))
    assert run.id != only_run(here / "runs", "late_fusion").name
    assert run.manifest()["foreign"]["unknown"] == []


@pytest.mark.parametrize(
    ("experiment", "weights", "network"),
    [("segresnet", "bundle", "SegResNet"), ("dynunet", "nnunet_results", "PlannedUNet")],
)
def test_foreign_weights_of_a_backbone(experiment, weights, network, here):
    words = ["--model.weights", weights, "--model.frozen", "all", "--trainer.callbacks", "null"]
    status, text = lightning(
        "fit", "--config", f"experiments/{experiment}.yaml", "--config", str(SHRUNKEN), *words
    )
    assert status == 0, text
    printed = " ".join(text.split())
    assert DOUBT in printed
    assert "(100.0%) taken over from" in printed
    module = load_module(run_at(only_run(here / "runs", experiment)).best_checkpoint)
    assert type(module.network).__name__ == network


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.backbones", "[nowhere]"], "There is no nowhere, which model.backbones or"),
        ([*BOTH, "--data.spacing", "2"], "--data.spacing is 2.0, but MONAI bundle bundle has 8.0"),
        ([*BOTH, "--model.size", "base"], "--model.size is base, but MONAI bundle bundle has tiny"),
        ([*BOTH, "--model.trained_on", "x.txt"], "The ids of training patients in x.txt cannot be"),
        (["--model.trained_on", "x.txt"], "model.trained_on x.txt has no effect without a network"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_any_training(words, message, here, capsys):
    assert cli.main(["fit", *FUSE, *words, "--runs_dir", "runs-bad"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (here / "runs-bad").exists()
