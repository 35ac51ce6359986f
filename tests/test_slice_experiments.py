"""The 2D study through the real command line at a shrunken scale: fit, test, predict."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import cli
from backbones.sam.variants import VARIANTS
from datamodules import RegisteredSliceDataModule
from datamodules.layouts.conventions import REGIONS
from datamodules.splits import make_split
from evaluation.metrics.scores import METRICS, SLICE_METRICS
from lightning_modules.weights.checkpoints import KEY, read_checkpoint
from studies.benchmarks.benchmark_file import read_benchmark
from tests.backbones.sam.peer import published_state
from tests.conftest import ROOT, SHRUNKEN_SLICES
from tests.trainings import only_run

pytestmark = pytest.mark.usefixtures("without_wandb")

ONE_MODALITY = ["sam_t1ce", "sam_t2", "sam_flair"]  # sam_t1 but for the modality, see its test
SAM = ["sam_t1", "sam_early_fusion", "sam_adapter", "sam_low_rank", "sam_bottleneck"]
MODALITIES = ("t1", "t1ce", "t2", "flair")
SYSTEMS = [*SAM, "sam_untrained_base", "transunet", "swin_unet"]
RANDOM = ("--model.weights", "random")


def run(*words):
    return cli.main([*words])


def config_of(name, *overlays):
    files = [f"experiments/{name}.yaml", *overlays, str(SHRUNKEN_SLICES)]
    return [word for file in files for word in ("--config", file)]


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("name", ONE_MODALITY)
def test_single_modalities_differ_in_the_modality_alone(name):
    own, t1 = (
        yaml.safe_load((ROOT / "experiments" / f"{one}.yaml").read_text())
        for one in (name, "sam_t1")
    )
    assert own["model"]["init_args"]["network"]["init_args"].pop("modality") == name[4:]
    assert t1["model"]["init_args"]["network"]["init_args"].pop("modality") == "t1"
    assert own == t1


@pytest.mark.parametrize("name", SYSTEMS)
def test_fit_test_predict(name, trainings):
    folder = trainings.tested(name)
    printed = trainings.printed("fit", name)
    assert "selected slices" in printed
    assert "training 4 patients" in printed
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert set(manifest["scores"]) == {"val/dice/WT"}
    assert f"{manifest['parameters']['all']:,} in all" in printed
    checkpoint = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    card = checkpoint[KEY]
    assert card["regions"] == ["WT"]
    if name in SAM:
        assert not any(key.startswith("network.encoder.") for key in checkpoint["state_dict"])
        assert len(card["base"]["hash"]) == 64
        assert card["base"]["variant"] == "mobile_sam"
        assert "RANDOM WEIGHTS" in printed  # no test downloads the published ones
    if name == "sam_untrained_base":
        assert any(key.startswith("network.encoder.") for key in checkpoint["state_dict"])
        assert "trained base mobile_sam: from random weights" in printed
    assert list((folder / "overlays").glob("*.png"))

    printed = trainings.printed("test", name)
    assert "selected slices" in printed
    assert "whole volumes" in printed
    scores = rows_of(folder / "per_case.csv")
    assert [row["case_id"] for row in scores] == sorted(card["split"]["test"])
    columns = {f"slices/{metric}/WT" for metric in SLICE_METRICS}
    assert columns | {f"{metric}/WT" for metric in METRICS} | {"empty_rule"} <= set(scores[0])

    output = trainings.predicted(name)
    volumes = rows_of(output / "volumes.csv")
    assert [row["case_id"] for row in volumes] == [row["case_id"] for row in scores]
    assert len(list(output.glob("*.png"))) == len(scores)


def test_systems_stand_side_by_side(trainings, home, capsys):
    for name in SYSTEMS:
        trainings.copy(trainings.tested(name), home)
    assert run("fit", *config_of("sam_adapter"), *RANDOM) == 0  # finished before: printed again
    printed = capsys.readouterr().out
    table = printed[printed.index("Systems trained on the same data") :]
    for name in SYSTEMS:
        assert name in table
    others = printed[printed.index("Note ") :]
    assert "sam_t1: frozen base mobile_sam: RANDOM WEIGHTS" in " ".join(others.split())


def test_another_question_does_not_change_a_systems_row(trainings, home):
    file = trainings.copy(trainings.tested("sam_adapter"), home) / "manifest.json"
    before = json.loads(file.read_text())["test_scores"]
    assert before
    words = ["test", "--config", "experiments/sam_adapter.yaml", "--results_dir", "results"]
    assert run(*words, "--data.selection", "largest") == 0
    words = ["test", "--ckpt_path", str(file.parent / "checkpoints" / "last.ckpt")]
    assert run(*words) == 0
    assert json.loads(file.read_text())["test_scores"] == before


def test_several_systems_validate_and_test_as_an_ensemble(trainings, home, capsys):
    members = [
        str(trainings.copy(trainings.trained(name), home) / "checkpoints" / "best.ckpt")
        for name in ("sam_adapter", "swin_unet")
    ]
    assert run("validate", "--ckpt_path", *members) == 0
    assert "selected slices" in capsys.readouterr().out
    assert run("test", "--ckpt_path", *members, "--results_dir", "results") == 0
    printed = capsys.readouterr().out
    assert "frozen base mobile_sam" in printed
    assert "training began from" in printed


def test_slices_of_another_size_are_refused(trainings, home, capsys):
    trainings.copy(trainings.trained("sam_adapter"), home)
    words = ["test", "--config", "experiments/sam_adapter.yaml", "--data.slice_size", "96"]
    assert run(*words) == 2
    assert "leave data.slice_size as the checkpoint has it" in capsys.readouterr().err


def test_predictions_lie_on_the_original_grid_of_every_modality(trainings, home):
    trainings.copy(trainings.trained("sam_adapter"), home)
    cohort = trainings.phantoms("sam_adapter")
    exam = sorted(path for path in cohort.iterdir() if path.is_dir())[0]
    output = home / "all-grids"
    files = [f"--{name}={next(exam.glob(f'*_{name}.nii.gz'))}" for name in MODALITIES]
    config = ["--config", "experiments/sam_adapter.yaml"]
    assert run("predict", *config, *files, "--all_grids", "--output", str(output)) == 0
    masks = sorted(output.glob("*.nii.gz"))
    assert len(masks) == 4
    grids = {tuple(nib.load(mask).shape) for mask in masks}
    images = {tuple(nib.load(next(exam.glob(f"*_{name}.nii.gz"))).shape) for name in MODALITIES}
    assert grids == images


def test_a_raw_exam_is_predicted_on_its_own_t2(trainings, home):
    trainings.copy(trainings.trained("sam_adapter"), home)
    cohort, output = home / "exams", home / "predictions-raw"
    exams = trainings.phantoms("sam_adapter")
    for exam in sorted(path for path in exams.iterdir() if path.is_dir())[:2]:
        shutil.copytree(exam, cohort / exam.name)
    words = ["--config", "experiments/sam_adapter.yaml", "--data.root", str(cohort)]
    assert run("predict", *words, "--output", str(output)) == 0
    masks = sorted(output.glob("*_seg.nii.gz"))
    assert len(masks) == 2
    for mask in masks:
        made = nib.load(mask)
        (t2,) = cohort.rglob(mask.name.replace("_seg", "_t2"))
        assert made.shape == nib.load(t2).shape
        assert np.allclose(made.affine, nib.load(t2).affine, atol=1e-4)
        assert set(np.unique(np.asarray(made.dataobj))) <= {0, 1}


def test_three_regions_from_training_to_label_maps(trainings, home, capsys):
    regions = ["--data.regions", "WT,TC,ET"]
    words = [*config_of("sam_adapter"), *regions, "--model.weights", "random"]
    assert run("fit", *words, "--trainer.max_epochs", "1") == 0
    folder = only_run(home / "runs", "sam_adapter")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["scores"]) == {"val/dice/WT", "val/dice/TC", "val/dice/ET"}
    assert read_checkpoint(folder / "checkpoints" / "best.ckpt")[KEY]["regions"] == list(REGIONS)
    assert list((folder / "overlays").glob("*.png"))
    assert run("test", "--config", "experiments/sam_adapter.yaml", *regions) == 0
    assert "TC, selected slices" in capsys.readouterr().out
    (row,) = rows_of(folder / "per_case.csv")
    columns = {f"slices/{metric}/{region}" for metric in SLICE_METRICS for region in REGIONS}
    assert columns | {f"{metric}/{region}" for metric in METRICS for region in REGIONS} <= set(row)
    output = home / "masks"
    assert run("predict", "--config", "experiments/sam_adapter.yaml", "--output", str(output)) == 0
    (volumes,) = rows_of(output / "volumes.csv")
    assert {"WT_ml", "TC_ml", "ET_ml"} <= set(volumes)
    assert "masks are written as" in capsys.readouterr().out

    one = trainings.copy(trainings.trained("sam_adapter"), home) / "checkpoints" / "best.ckpt"
    assert run("test", "--ckpt_path", str(one), *regions) == 2
    assert "leave data.regions as the checkpoint has it" in capsys.readouterr().err
    three = ["--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]
    assert run("test", *three, "--data.regions", "WT") == 2
    assert "leave data.regions as the checkpoint has it" in capsys.readouterr().err
    assert run("test", *three, str(one)) == 2
    assert "an ensemble needs members of the same regions" in capsys.readouterr().err


def test_unaugmented_single_modality_trains_on_stored_embeddings(home, session_folder, capsys):
    words = ["--data.augmentation", "false", *RANDOM]
    assert run("fit", *config_of("sam_flair"), *words) == 0
    assert "is computed once a slice" in capsys.readouterr().out
    stored = list((session_folder / "cache" / "embeddings").rglob("*.npy"))
    assert stored
    assert np.load(stored[0]).dtype == np.float16
    first = only_run(home / "runs", "sam_flair")
    before = read_checkpoint(first / "checkpoints" / "last.ckpt")["state_dict"]
    assert run("fit", *config_of("sam_flair"), *words, "--overwrite") == 0
    (again,) = (p for p in first.parent.iterdir() if ".replaced-" not in p.name)
    after = read_checkpoint(again / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.slow
def test_same_recipe_gives_a_rival_the_recipe_of_the_adapters_paper(home):
    words = ["--trainer.max_epochs", "1"]
    recipe = "experiments/scale/same_recipe.yaml"
    assert run("fit", *config_of("swin_unet", recipe), *words) == 0
    folder = only_run(home / "runs", "swin_unet")
    rival = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    sam = yaml.safe_load((ROOT / "experiments" / "sam_early_fusion.yaml").read_text())
    for key, options in (("optimizer", ("lr", "weight_decay")), ("loss", ("lambda_dice",))):
        ours = sam["model"]["init_args"][key]
        assert rival[key]["class_path"] == ours["class_path"]
        for option in options:
            assert rival[key]["init_args"][option] == ours["init_args"][option]


@pytest.mark.slow
def test_runs_on_lite_medsam_say_that_it_may_have_seen_brats(home, capsys, tmp_path):
    overlay = "experiments/scale/lite_medsam.yaml"
    content = yaml.safe_load((ROOT / overlay).read_text())
    assert content["model"]["init_args"]["image_size"] == content["data"]["init_args"]["slice_size"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    torch.save(published_state("lite_medsam", 16), tmp_path / "made.pth")
    made = ["--model.weights", str(tmp_path / "made.pth")]
    assert run("fit", *config_of("sam_flair", overlay), *made, *short) == 0
    assert "may be contaminated" in capsys.readouterr().out
    manifest = json.loads((only_run(home / "runs", "sam_flair") / "manifest.json").read_text())
    assert VARIANTS["lite_medsam"].remark in manifest["remarks"]


def test_embedded_study_holds_out_eight_exams_for_every_system():
    overlay = "experiments/scale/phantom_study_slices.yaml"
    study = yaml.safe_load((ROOT / overlay).read_text())
    assert set(study) == {"data"}  # no setting of one system, which keeps its recipe
    exams = RegisteredSliceDataModule(**study["data"]["init_args"]).phantom_patients
    split = make_split({f"exam-{index}": f"exam-{index}" for index in range(exams)})
    assert len(split.test) == 8
    assert read_benchmark("experiments/benchmarks/sam_adapter.yaml").overlays == [overlay]


@pytest.mark.slow
def test_paper_scale_has_the_parameters_of_the_paper(home, capsys):
    overlay = "experiments/scale/slices2d.yaml"
    words = ["--model.weights", "random", "--model.image_size", "256", "--data.slice_size", "256"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    short += ["--trainer.precision", "32-true", "--data.slices_per_patient", "1"]
    assert run("fit", *config_of("sam_adapter", overlay), *words, *short) == 0
    printed = capsys.readouterr().out
    assert "97,398,751 in all, 10,719,891 trained (11.0 %)" in printed
    assert "RANDOM WEIGHTS" in printed
    folder = only_run(home / "runs", "sam_adapter")
    parameters = json.loads((folder / "manifest.json").read_text())["parameters"]
    assert parameters["all"] == 97_398_751
    assert 42e6 < (folder / "checkpoints" / "best.ckpt").stat().st_size < 45e6
