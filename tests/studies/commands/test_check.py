"""`lightning check` with a checkpoint: the patients who look unlike its training patients."""

import numpy as np
import pytest
import torch

import cli
from datamodules.appearance import cohort_statistics
from datamodules.cases.cache import prepare_cases
from datamodules.patients.find import find_cases
from lightning_modules.weights.checkpoints import KEY
from tests.datamodules.tiny_patients import make_volumes, save


def write(root, number, alter=None):
    """Write a patient of BraTS 2021; `alter` changes its images in place."""
    images, label = make_volumes(number)
    if alter is not None:
        alter(images)
    case_id = f"BraTS2021_{number:05d}"
    for name, array in {**images, "seg": label}.items():
        save(array, root / case_id / f"{case_id}_{name}.nii.gz")


def invert_t2(images):
    images["t2"] = np.where(images["t2"] > 0, 1500 - images["t2"], 0).astype(np.int16)


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(**entries)`: a checkpoint that was trained on five tiny patients."""
    for number in range(5):
        write(tmp_path / "seen", number)
    seen = prepare_cases(find_cases(tmp_path / "seen"), tmp_path / "c", 1.0, progress=False)
    data = {"class_path": "datamodules.BraTSPatchDataModule", "init_args": {"spacing": 1.0}}
    card = {"config": {"data": data}, "appearance": cohort_statistics(seen)}

    def make(**changes):
        torch.save({KEY: {**card, **changes}, "state_dict": {}}, tmp_path / "best.ckpt")
        return str(tmp_path / "best.ckpt")

    return make


def test_patients_unlike_those_of_the_checkpoint_are_named(checkpoint, tmp_path, capsys):
    write(tmp_path / "new", 11)
    write(tmp_path / "new", 12, invert_t2)
    words = ["check", "--data.root", str(tmp_path / "new"), "--ckpt_path", checkpoint()]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("BraTS2021_00012: ")]
    assert "T2" in line
    assert ", training " in line
    assert not [line for line in lines if line.startswith("BraTS2021_00011: ")]
    assert lines[-1].startswith("1 of 2 looks unlike the 5 patients that ")


def test_bad_patients_are_left_out_of_the_comparison(checkpoint, tmp_path, capsys):
    write(tmp_path / "new", 11)
    write(tmp_path / "new", 12, lambda images: images.pop("t2"))
    words = ["check", "--data.root", str(tmp_path / "new"), "--ckpt_path", checkpoint()]
    assert cli.main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "BraTS2021_00012: not compared with the training patients (modality t2 is miss" in (
        "\n".join(lines)
    )
    assert lines[-1].startswith("0 of 1 look unlike the 5 patients that ")


T2 = {"median": 2.6, "spread": 0.1, "low": 2.2, "high": 3.0}


@pytest.mark.parametrize(
    "appearance",
    [
        None,
        "hello",
        {"patients": 84},
        {"patients": 84, "numbers": {"t2/p99": {"low": 2.2, "high": 3.0}}},
        {"patients": 84, "numbers": {"t2/p99": {**T2, "low": "?"}}},
        {"patients": 84, "numbers": {"t2/p99": T2, "t2/p1": T2}, "together": [[1.0], [0.5, 1.0]]},
        {"patients": 0, "numbers": {"t2/p99": T2}},
    ],
)
def test_a_checkpoint_without_whole_statistics_is_refused_before_the_cohort_is_read(
    appearance, checkpoint, tmp_path, capsys
):
    words = ["check", "--data.root", str(tmp_path / "none"), "--ckpt_path"]
    assert cli.main([*words, checkpoint(appearance=appearance)]) == 2
    error = capsys.readouterr().err
    assert "best.ckpt holds no complete statistics of the images it was trained on" in error
    assert "train it again with `lightning fit`, or leave the option out" in error


def test_the_weights_of_the_project_are_found_from_every_folder(tmp_path, monkeypatch, capsys):
    write(tmp_path / "new", 11)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "--data.root", "new", "--ckpt_path", "weights/fusion.ckpt"]) == 0
    assert "looks unlike the 84 patients that " in capsys.readouterr().out
