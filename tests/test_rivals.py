"""The three compared methods through the real command line at a shrunken scale."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

import cli
from tests.conftest import SHRUNKEN

pytestmark = pytest.mark.usefixtures("without_wandb")

SHORT = ["--config", str(SHRUNKEN), "--trainer.max_epochs", "1"]


def run(subcommand, name, *words):
    return cli.main([subcommand, "--config", f"experiments/{name}.yaml", *words])


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def copy(trainings, home):
    """Copy the run of an experiment into the working directory; return the copy's folder."""
    return lambda name: trainings.copy(trainings.trained(name), home)


def test_terms_of_the_loss_are_logged_by_their_names(trainings):
    for row in rows_of(trainings.trained("zhou2022") / "metrics.csv"):
        assert 0 < float(row["train/correlation"]) < float(row["train/loss"])
    transition = trainings.trained("zhang2021_transition")
    for row in rows_of(transition / "metrics.csv"):
        total = float(row["train/adversarial"]) + 10 * float(row["train/cycle"])
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-4)
    assert (transition / "overlays" / "translation.png").is_file()


def test_attention_can_be_looked_at(copy, home):
    copy("zhou2022")
    assert run("predict", "zhou2022", "--maps", "--output", "maps") == 0
    channels = json.loads((home / "maps" / "maps.json").read_text())
    assert channels["modality_attention"] == ["t1", "t1ce", "t2", "flair"]
    masks = sorted((home / "maps").glob("*_seg.nii.gz"))
    assert len(masks) == 2
    for mask in masks:
        for name, names in channels.items():
            volume = nib.load(mask.with_name(mask.name.replace(".nii", f"_{name}.nii")))
            assert volume.shape == (*nib.load(mask).shape, len(names))
            assert np.array_equal(volume.affine, nib.load(mask).affine)
            values = np.asarray(volume.dataobj)
            assert 0 <= values.min() < values.max() <= 1


def test_maps_of_a_network_without_any_are_refused_before_anything_runs(copy, home, capsys):
    copy("zhang2021")
    assert run("predict", "zhang2021", "--maps", "--output", "nothing") == 2
    assert "zhang2021 has no maps" in capsys.readouterr().err
    assert not (home / "nothing").exists()


def test_postprocessing_of_its_own_is_on_and_its_effect_printed(trainings):
    folder = trainings.tested("zhang2021")
    printed = " ".join(trainings.printed("test", "zhang2021").split())
    assert "post-processing: components below 33% of the largest dropped" in printed
    rows = rows_of(folder / "per_case.csv")
    before, after = (
        np.mean([float(row[name]) for row in rows]) for name in ("unprocessed/dice/WT", "dice/WT")
    )
    assert f"dice/WT {before:.4f} -> {after:.4f} ({after - before:+.4f})" in printed


def test_postprocessing_is_an_option_of_every_experiment_and_keeps_the_run_s_own_test(
    trainings, home, capsys
):
    folder, other = (
        trainings.copy(trainings.tested(name), home) for name in ("zhou2022", "zhang2021")
    )
    own = (folder / "per_case.csv").read_bytes()
    scores = json.loads((folder / "manifest.json").read_text())["test_scores"]
    assert "unprocessed" not in own.decode()
    assert run("test", "zhou2022", "--postprocessing", "on") == 0
    assert "post-processing" in capsys.readouterr().out
    (with_rules,) = folder.glob("postprocessing-on/per_case.csv")
    assert "unprocessed/dice/WT" in with_rules.read_text()
    assert (folder / "per_case.csv").read_bytes() == own
    assert json.loads((folder / "manifest.json").read_text())["test_scores"] == scores
    rule = ["--model.postprocessing.least_core", "50"]
    assert run("test", "zhang2021", *rule) == 0
    (changed,) = other.glob("postprocessing-*/per_case.csv")
    assert "unprocessed/dice/WT" in changed.read_text()
    assert run("test", "zhang2021", "--postprocessing", "off") == 0
    (without,) = other.glob("postprocessing-off/per_case.csv")
    assert "unprocessed" not in without.read_text()


def test_predictions_say_their_volumes_before_the_rules(trainings):
    output = trainings.predicted("zhang2021")
    rows = rows_of(output / "volumes.csv")
    assert {"WT_ml", "WT_ml_unprocessed", "ET_ml_unprocessed", "doubts"} <= set(rows[0])
    files = [nib.load(path) for path in sorted(output.glob("*_seg.nii.gz"))]
    assert len(files) == len(rows)
    for row, file in zip(rows, files, strict=True):
        ml = (np.asarray(file.dataobj) > 0).sum() * np.prod(file.header.get_zooms()) / 1000
        assert float(row["WT_ml"]) == pytest.approx(float(ml), abs=2e-3)


def test_a_first_stage_is_neither_tested_nor_predicted_with(copy, capsys):
    copy("zhang2021_transition")
    assert run("test", "zhang2021_transition") == 2
    assert "is a first stage and segments nothing" in capsys.readouterr().err


def test_a_first_stage_of_another_size_is_refused(trainings, home, capsys):
    checkpoint = trainings.trained("zhang2021_transition") / "checkpoints" / "best.ckpt"
    words = [*SHORT, "--model.weights", str(checkpoint), "--model.size", "base"]
    assert run("fit", "zhang2021", *words, "--data.patch_size", "[32,32,32]") == 2
    message = capsys.readouterr().err
    assert "has size tiny, the network base: train both at one size" in message


def test_a_patch_too_small_for_the_depth_is_refused(home, capsys):
    words = [*SHORT, "--data.patch_size", "[12,24,24]"]
    for name in ("zhang2021_transition", "zhou2022"):
        assert run("fit", name, *words) == 2
        assert "so set `patch_size` to 16 x 24 x 24" in capsys.readouterr().err


def test_gradients_of_several_batches_are_refused_where_two_optimisers_step(home, capsys):
    words = [*SHORT, "--trainer.accumulate_grad_batches", "2"]
    assert run("fit", "zhang2021_transition", *words) == 2
    assert "steps several optimisers in turns" in capsys.readouterr().err
