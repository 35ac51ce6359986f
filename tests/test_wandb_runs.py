"""Logs of runs for Weights & Biases, read back from its own files."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from evaluation.tables.per_case import read_csv
from studies.commands.dashboard import BOARD, COLUMNS, SYSTEM
from tests.wandb_decoder import stored


@pytest.fixture(scope="module")
def fusion(trainings):
    """Folder of a tested run; no picture in a list was of another size than the first."""
    folder = trainings.tested("fusion")
    for command in ("fit", "test"):
        assert "sizes do not match" not in trainings.printed(command, "fusion")
    return folder


@pytest.fixture(scope="module")
def manifest(fusion):
    return json.loads((fusion / "manifest.json").read_text())


@pytest.fixture(scope="module")
def folders(fusion):
    return stored(fusion)  # of fit, then of test


def backbones(fusion):
    found = json.loads((fusion / "manifest.json").read_text())["stages"].values()
    return [fusion.parents[2] / folder for folder in found]


def test_a_test_joins_the_run_of_its_training(folders, fusion, manifest):
    assert {folder.id for folder in folders} == {manifest["tracking"]["id"]}
    assert folders[0].id.startswith(f"{fusion.name}-")  # of this folder, not of the identity
    assert all(folder.finished for folder in folders)
    assert {folder.group for folder in folders} == {f"3d-{manifest['cohort'][:8]}"}
    assert {folder.job_type for folder in folders} == {"fusion"}
    assert folders[0].tags == {"3d", "fusion", "shrunken"}
    assert folders[1].tags == {"3d", "fusion", "shrunken", "tested"}
    assert [Path(folder) for folder in manifest["wandb"]] == [one.folder for one in folders]


def test_backbones_lie_beside_the_fusion(fusion, folders):
    for folder in backbones(fusion):
        first = stored(folder)[0]
        assert first.finished
        assert first.job_type == "backbone"
        assert first.group == folders[0].group
        assert first.history


def test_configuration_is_the_resolved_one(folders, fusion, manifest):
    written = yaml.safe_load((fusion / "config.yaml").read_text())
    names = [folder.name for folder in backbones(fusion)]
    for folder in folders:
        for key in ("model", "data", "seed_everything"):
            assert folder.config[key] == written[key]
        about = folder.config["gliofuse"]
        assert about["system"] == "fusion + shrunken"
        assert about["cohort"] == manifest["cohort"]
        assert about["patients"] == {"train": 7, "val": 1, "test": 2}
        assert about["built_from"] == [f"dynunet-{names[0]}", f"segresnet-{names[1]}"]


def test_curves_are_those_of_the_metrics_file(folders, fusion):
    written = read_csv(fusion / "metrics.csv")
    curve = [row for row in folders[0].history if "epoch" in row]
    assert [row["epoch"] for row in curve] == [0, 1]
    assert len(curve) == len(written)
    for row, expected in zip(curve, written, strict=True):
        for name in ("train/loss", "val/dice/WT", "val/dice/TC", "val/dice/ET", "val/dice/mean"):
            assert row[name] == pytest.approx(expected[name], abs=1e-7)
    steps = [row["_step"] for folder in folders for row in folder.history]
    assert steps == sorted(set(steps))


def test_summary_compares_scores_parameters_and_cost(folders, manifest):
    for folder in folders:
        summary = folder.summary
        for name, value in manifest["scores"].items():
            assert summary[f"best/{name}"] == pytest.approx(value)
        mean = np.mean(list(manifest["scores"].values()))
        assert summary["best/val/dice/mean"] == pytest.approx(mean)
        assert summary["parameters/all"] == manifest["parameters"]["all"]
        assert summary["parameters/trained"] == manifest["parameters"]["trained"]
        assert summary["peak_memory_gb/process"] == manifest["peak_memory_gb"]["process"]
        assert summary["wall_seconds"] == manifest["wall_seconds"] > 0
    for name, value in manifest["test_scores"].items():
        assert folders[-1].summary[f"test/{name}"] == pytest.approx(value)


def test_checkpoint_split_and_manifest_are_artifacts(folders, fusion, manifest):
    name = f"fusion-{fusion.name}"
    model = folders[0].artifact(name)
    assert (model["type"], model["used"]) == ("model", False)
    assert model["files"] == {"best.ckpt": str(fusion / "checkpoints" / "best.ckpt")}
    (split,) = (a for a in folders[0].artifacts if a["type"] == "split")
    stored_split = Path(split["files"]["split.json"]).read_text()
    assert stored_split == (fusion / "split.json").read_text()
    papers = folders[0].artifact(f"{name}-manifest")
    assert set(papers["files"]) == {"manifest.json", "config.yaml", "metrics.csv"}
    tested = folders[1].artifact(f"{name}-manifest")
    assert set(tested["files"]) == {*papers["files"], "per_case.csv"}
    kept = json.loads(Path(tested["files"]["manifest.json"]).read_text())
    assert kept["test_scores"] == manifest["test_scores"]


def test_fusion_is_built_from_the_artifacts_of_its_backbones(folders, fusion):
    used = [artifact for artifact in folders[0].artifacts if artifact["used"]]
    assert [artifact["name"] for artifact in used] == folders[0].config["gliofuse"]["built_from"]
    for artifact, folder in zip(used, backbones(fusion), strict=True):
        own = stored(folder)[0]
        logged = own.artifact(artifact["name"])
        assert logged["digest"] == artifact["digest"]  # W&B tells versions apart by it
        assert not logged["used"]
        assert not any(one["used"] for one in own.artifacts)


def test_tables_hold_every_patient_and_his_picture(folders, fusion, manifest):
    rows = folders[0].table("val/cases")
    assert [row["case_id"] for row in rows] == [
        row["case_id"] for row in manifest["validation_cases"]
    ]
    for row, expected in zip(rows, manifest["validation_cases"], strict=True):
        assert [row[f"dice/{region}"] for region in ("WT", "TC", "ET")] == [
            pytest.approx(expected[region]) for region in ("WT", "TC", "ET")
        ]
    tested, written = folders[1].table("test/cases"), read_csv(fusion / "per_case.csv")
    assert [row["case_id"] for row in tested] == [row["case_id"] for row in written]
    for row, expected in zip(tested, written, strict=True):
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        assert {"dice/WT", "hd95/ET"} <= set(numbers)
        assert numbers == {name: pytest.approx(expected[name]) for name in numbers}
        overlay = row["overlay"]
        with Image.open(overlay["path"]) as picture:
            assert picture.size == (overlay["width"], overlay["height"])
            assert np.asarray(picture).std() > 5  # not empty


def test_pictures_of_one_list_are_equally_large(folders):
    for folder, name in zip(folders, ("val/overlays", "test/overlays"), strict=True):
        (shown,) = (row[name] for row in folder.history if name in row)
        for file in shown["filenames"]:
            with Image.open(folder.folder / "files" / file) as picture:
                assert picture.size == (shown["width"], shown["height"])


def test_panels_name_only_what_runs_log(trainings, folders):
    runs = [
        *folders,
        *stored(trainings.trained("zhang2021_transition")),
        *stored(trainings.tested("sam_t1")),
    ]
    history = {name for run in runs for row in run.history for name in row}
    summaries = {name for run in runs for name in run.summary}
    for section in BOARD:
        for panel in section.panels:
            known = history if panel.kind in ("lines", "pictures", "table") else summaries
            assert set(panel.metrics) <= known, panel.title
    asked = {name.partition(":")[2] for name in COLUMNS if name.startswith("summary:")}
    assert asked <= summaries
    outer, inner = SYSTEM.split(".")
    assert all(run.config[outer][inner] for run in runs)
    assert {run.job_type for run in runs} == {"fusion", "adapter", "pretrain"}
    assert len({run.group for run in runs}) == 2  # one a study
