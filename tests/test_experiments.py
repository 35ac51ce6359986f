"""Every experiment through the real command line at a shrunken scale: fit, test, predict."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import cli
from datamodules.patients.find import find_cases
from datamodules.phantom.simulation import generate_cohort
from evaluation.metrics.scores import METRICS, dice
from lightning_modules.weights.checkpoints import KEY, read_checkpoint
from studies.scores.tested import find_tested
from studies.training.segment_again import view_cases
from tests.browser import visit
from tests.conftest import ROOT, SHRUNKEN
from tests.test_slice_experiments import ONE_MODALITY, SYSTEMS
from tests.trainings import LOGGED, only_run

FIRST_STAGES = ("FeatureTransitionModule",)


def segmenting(data_class):
    """Experiments on this data that segment; a new file is one of them by itself."""
    found = []
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        module = content.get("model", {}).get("class_path", "").rpartition(".")[2]
        data = content.get("data", {}).get("class_path", "").rpartition(".")[2]
        if data == data_class and module not in FIRST_STAGES:
            found.append(path.stem)
    return found


NEEDS_PATIENTS = ("finetune",)  # tested below, with patients and weights to start from
EXPERIMENTS = [n for n in segmenting("BraTSPatchDataModule") if n not in NEEDS_PATIENTS]
REGIONS = ("WT", "TC", "ET")


def run(*words: str) -> int:
    return cli.main([*words])


def config_of(name: str) -> list[str]:
    return ["--config", f"experiments/{name}.yaml", "--config", str(SHRUNKEN)]


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_list_of_experiments_is_complete():
    assert set(segmenting("RegisteredSliceDataModule")) == {*SYSTEMS, *ONE_MODALITY}
    assert {"fusion", "late_fusion", "zhang2021", "zhou2022", "akbar2022"} <= set(EXPERIMENTS)
    overlays = {path.stem for path in (ROOT / "experiments" / "scale").glob("*.yaml")}
    # each has its test below or in test_slice_experiments.py
    assert overlays == {
        *("brats3d", "dice_ce", "nnunet_recipe", "phantom_long", "phantom_study"),
        *("slices2d", "same_recipe", "phantom_study_slices", "lite_medsam"),
        *("recipe_zhang2021", "recipe_zhou2022", "recipe_akbar2022"),
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fit_test_predict(name, trainings):
    folder = trainings.tested(name)
    assert "Next         lightning test" in trainings.printed("fit", name)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert set(manifest["scores"]) == {f"val/dice/{region}" for region in REGIONS}
    card = read_checkpoint(folder / "checkpoints" / "best.ckpt")[KEY]
    assert card["modalities"] == ["t1", "t1ce", "t2", "flair"]
    assert card["regions"] == list(REGIONS)
    assert {patient["case_id"] for patient in card["seen"]} == {
        *card["split"]["train"],
        *card["split"]["val"],
    }
    assert list((folder / "overlays").glob("*.png"))
    assert bool(list(folder.glob("wandb/offline-run-*"))) == (name in LOGGED)

    scores = rows_of(folder / "per_case.csv")
    assert [row["case_id"] for row in scores] == sorted(card["split"]["test"])
    assert {f"{metric}/{region}" for metric in METRICS for region in REGIONS} <= set(scores[0])
    assert {row["empty_rule"] for row in scores} == {"brats"}

    bins = rows_of(folder / "calibration.csv")
    assert {row["case_id"] for row in bins} == {row["case_id"] for row in scores}
    assert (folder / "reliability.png").is_file()

    output = trainings.predicted(name)
    volumes = rows_of(output / "volumes.csv")
    assert [row["case_id"] for row in volumes] == [row["case_id"] for row in scores]
    assert len(list(output.glob("*.png"))) == len(scores)


def test_fine_tuning_names_both_sources_and_all_it_has_seen(trainings, home, tmp_path, capsys):
    fusion = trainings.trained("late_fusion") / "checkpoints" / "best.ckpt"
    generate_cohort(tmp_path / "patients", 3, seed=2, spacing=5.0, progress=False)
    words = [*config_of("finetune"), f"--model.weights={fusion}", "--data.phantom_patients=2"]
    words += ["--data.phantom_seed=1"]
    assert run("fit", *words) == 2
    assert "data.phantoms is 0.5" in " ".join(capsys.readouterr().err.split())
    assert run("fit", *words, f"--data.root={trainings.phantoms('dynunet')}") == 2
    assert "of the test patients of this experiment" in capsys.readouterr().err
    assert run("fit", *words, f"--data.root={tmp_path / 'patients'}") == 0
    assert "taken over from the DynUNet in" in capsys.readouterr().out

    folder = only_run(home / "runs", "finetune")
    manifest = json.loads((folder / "manifest.json").read_text())
    source = manifest["determinants"]["data"]["phantoms"]
    assert (source["share"], source["seed"], source["patients"]) == (0.5, 1, 2)
    card = read_checkpoint(folder / "checkpoints" / "best.ckpt")[KEY]
    assert card["data"]["phantoms"] == source
    assert card["config"]["data"]["init_args"]["root"] == str(tmp_path / "patients")
    before = read_checkpoint(fusion)[KEY]
    trained = {one["content_hash"] for one in card["trained_on"]}
    assert {one["content_hash"] for one in before["trained_on"]} < trained
    mixed = {f"phantom-1-000{number}" for number in (1, 2)}
    assert set(card["split"]["phantoms"]) == mixed < {one["case_id"] for one in card["trained_on"]}
    assert run("test", "--config", "experiments/finetune.yaml") == 0
    assert len(rows_of(folder / "per_case.csv")) == 1


@pytest.mark.parametrize("name", ["fusion"])
def test_scoring_the_files_of_predict_gives_the_table_of_test(name, trainings, tmp_path):
    folder, output = trainings.tested(name), trainings.predicted(name)
    cohort = trainings.phantoms(name)
    references = {case.prediction_name: case for case in find_cases(cohort)}
    table = sorted(rows_of(folder / "per_case.csv"), key=lambda row: row["case_id"])
    files = sorted(output.glob("*_seg.nii.gz"))
    assert len(files) == len(table)
    for file, row in zip(files, table, strict=True):
        case = references[file.name]
        predicted, reference = nib.load(file), nib.load(case.label)
        assert np.array_equal(predicted.affine, reference.affine)
        regions = [
            case.convention.to_regions(np.asarray(image.dataobj))
            for image in (predicted, reference)
        ]
        for index, region in enumerate(REGIONS):
            expected = dice(regions[0][index], regions[1][index])
            assert float(row[f"dice/{region}"]) == pytest.approx(expected, abs=1e-9)
    words = ("--predictions", str(output), "--references", str(cohort), "--allow_missing", "true")
    assert run("evaluate", *words, "--out", str(tmp_path / "again")) == 0
    again = rows_of(tmp_path / "again" / "per_case.csv")
    # a phantom has another name in its run than in its files
    assert [{**row, "case_id": ""} for row in again] == [{**row, "case_id": ""} for row in table]


def test_another_rule_for_empty_regions_keeps_the_run_s_own_test(trainings, home, capsys):
    folder = trainings.copy(trainings.tested("dynunet"), home)
    before = (folder / "per_case.csv").read_bytes()
    assert run("test", "--config", "experiments/dynunet.yaml", "--rule", "nan") == 0
    assert "rule nan" in " ".join(capsys.readouterr().out.split())
    rows = rows_of(folder / "rule-nan" / "per_case.csv")
    assert {row["empty_rule"] for row in rows} == {"nan"}
    assert (folder / "per_case.csv").read_bytes() == before


def test_a_finished_training_is_not_done_again(trainings, home, capsys):
    folder = trainings.copy(trainings.trained("dynunet"), home)
    before = (folder / "checkpoints" / "best.ckpt").stat().st_mtime_ns
    assert run("fit", *config_of("dynunet")) == 0
    assert "was finished before" in capsys.readouterr().out
    assert only_run(home / "runs", "dynunet") == folder
    assert (folder / "checkpoints" / "best.ckpt").stat().st_mtime_ns == before


def test_metrics_file_has_a_row_an_epoch(trainings):
    for name in ("dynunet", "fusion"):
        rows = rows_of(trainings.trained(name) / "metrics.csv")
        assert [float(row["epoch"]) for row in rows] == [0, 1]
        assert {"train/loss", "val/dice/WT", "val/dice/mean", "lr"} <= set(rows[0])


def test_validate_gives_the_scores_that_fit_reported(trainings, home, capsys):
    folder = trainings.copy(trainings.trained("fusion"), home)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert run("validate", "--config", "experiments/fusion.yaml") == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["WT"])
    assert float(line.split()[1]) == pytest.approx(manifest["scores"]["val/dice/WT"], abs=6e-4)


def test_a_fusion_checkpoint_is_whole(trainings, home):
    alone = home / "moved.ckpt"
    alone.write_bytes((trainings.trained("fusion") / "checkpoints" / "best.ckpt").read_bytes())
    output = home / "out"  # there are no runs of backbones here
    assert run("predict", "--ckpt_path", str(alone), "--output", str(output)) == 0
    assert (output / "volumes.csv").read_text() == (
        trainings.predicted("fusion") / "volumes.csv"
    ).read_text()


def test_ensemble_with_flips_and_probabilities(trainings, tmp_path):
    members = [
        str(trainings.trained(name) / "checkpoints" / "best.ckpt")
        for name in ("dynunet", "segresnet")
    ]
    words = ["predict", "--ckpt_path", *members, "--output", str(tmp_path), "--tta", "flips"]
    assert run(*words, "--probabilities") == 0
    volume = nib.load(next(tmp_path.glob("*_probabilities.nii.gz")))
    values = np.asarray(volume.dataobj)
    assert values.shape[-1] == 3
    assert values.dtype == np.float32
    assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["phantom_long", "phantom_study", "dice_ce", "nnunet_recipe"])
def test_overlays_lie_over_an_experiment(overlay, home):
    words = [
        "--config",
        "experiments/dynunet.yaml",
        "--config",
        f"experiments/scale/{overlay}.yaml",
    ]
    assert run("fit", *words, "--config", str(SHRUNKEN), "--trainer.max_epochs", "1") == 0
    folder = only_run(home / "runs", "dynunet")
    config = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    if overlay == "dice_ce":
        assert config["loss"]["class_path"] == "lightning_modules.losses.DiceBCELoss"
    elif overlay == "phantom_long":
        assert config["scheduler"]["class_path"] == "lightning_modules.WarmupCosine"
    elif overlay == "nnunet_recipe":
        assert config["output_bias"] is None
        recipe = {"squared_pred": False, "batch": False, "bce_weight": 1.0}
        assert config["loss"]["init_args"] == recipe  # nothing of the experiment's loss
        weights = read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"]
        deep = {name for name in weights if "deep_heads" in name}
        assert deep == {"network.deep_heads.0.weight", "network.deep_heads.0.bias"}
        assert config["optimizer"]["init_args"]["nesterov"] is True
        rates = [float(row["lr"]) for row in rows_of(folder / "metrics.csv")]
        assert rates == [0.0]  # after the last step of the only epoch
        data = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]
        assert data["augmentation"] == "nnunet"
    else:
        assert "phantom_study" in json.loads((folder / "manifest.json").read_text())["overlays"]


@pytest.mark.slow
def test_the_recipe_is_in_the_identity_and_averaged_weights_are_applied(trainings, home):
    folder = trainings.copy(trainings.trained("dynunet"), home)
    determinants = json.loads((folder / "manifest.json").read_text())["determinants"]
    assert determinants["model"]["init_args"]["output_rate"] == 4.0
    assert determinants["data"]["healthy_share"] == 0.5
    assert determinants["callbacks"][0]["init_args"] == {"decay": 0.98}
    best, last = (
        torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    )
    trained = last["current_model_state"]
    name = "network.output_block.conv.conv.bias"
    for averaged in (best["state_dict"], last["state_dict"]):
        assert not torch.equal(averaged[name], trained[name])
    assert trained[name].tolist() == pytest.approx([-2, -2, -2], abs=0.1)
    assert run("test", "--config", "experiments/dynunet.yaml") == 0
    assert run("validate", "--config", "experiments/dynunet.yaml") == 0


@pytest.mark.slow
def test_paper_scale_trains_a_base_network(home):
    words = ["--config", "experiments/dynunet.yaml", "--config", "experiments/scale/brats3d.yaml"]
    small = ["--config", str(SHRUNKEN), "--data.patch_size", "[64,64,64]", "--data.batch_size", "1"]
    short = ["--trainer.max_epochs", "1", "--data.patches_per_epoch", "1"]
    short += ["--trainer.precision", "32-true"]  # 64 voxels leave a grid of 2 at the bottom
    assert run("fit", *words, *small, *short) == 0
    folder = only_run(home / "runs", "dynunet")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == {"all": 31_184_355, "trained": 31_184_355}
    assert manifest["overlays"] == ["brats3d", "shrunken"]


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=str)
def test_an_experiment_file_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    assert text.startswith("# ")
    content = yaml.safe_load(text)
    if path.parent.name == "experiments" and path.stem != "defaults":
        assert f"lightning fit --config experiments/{path.name}" in text
        assert {"model", "data"} <= set(content)
    if path.stem == "defaults":
        assert "model" not in content


@pytest.mark.slow
def test_rehearsal_leaves_nothing_to_reuse(home):
    words = ["fit", *config_of("fusion"), "--trainer.fast_dev_run", "true"]
    assert run(*words, "--seed_everything", "7") == 0
    assert not list((home / "runs").rglob("*.ckpt"))
    assert not list((home / "runs").rglob("manifest.json"))


def test_a_report_shows_what_the_checkpoints_predict(trainings, home):
    for name in ("dynunet", "fusion"):
        trainings.copy(trainings.tested(name), home)
    assert run("report", "dynunet", "fusion", "--out", "report.html") == 0
    page = home / "report.html"
    text = page.read_text()
    assert len(text) < 60e6
    assert "in the pictures and" not in text  # their Dice is the table's
    assert "SYNTHETIC" in text
    assert "Without" not in text
    for name in ("dynunet", "fusion"):
        folder = only_run(home / "runs", name)
        tested = [row["case_id"] for row in rows_of(folder / "per_case.csv")]
        kept = {file.name: file.stat().st_mtime_ns for file in (folder / "report").iterdir()}
        assert {file.rpartition("-")[0] for file in kept} <= set(tested)
        assert len(kept) == min(3, len(tested))
    again, _ = view_cases({"fusion": [find_tested(str(folder), folder)]}, {tested[0]: "only"})
    assert again[0].predictions["fusion"].any()
    # earlier predictions were reused
    assert kept == {file.name: file.stat().st_mtime_ns for file in (folder / "report").iterdir()}
    script = """
      const root = document.getElementById("viewer-box");
      await until(() => root.dataset.ready === "1");
      const canvas = root.querySelector("canvas");
      const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      found.bright = all.filter((value, at) => at % 4 === 0 && value > 60).length;
      found.rows = document.getElementById("patients-count").textContent;
    """
    found, complaints = visit(page, script)
    assert complaints == []
    assert found["bright"] > 500
    assert found["rows"] == f"{2 * len(tested)} of {2 * len(tested)} rows"
