"""A checkpoint is never tested on a patient that it was trained or selected on."""

import shutil

import pytest

import cli
from tests.conftest import SHRUNKEN


@pytest.fixture
def trained(trainings, home):
    """A stage-1 checkpoint, trained on the split of seed 0."""
    return trainings.copy(trainings.trained("dynunet"), home) / "checkpoints" / "best.ckpt"


def fusion(checkpoint, runs_dir, *words):
    config = ["--config", "experiments/early_fusion.yaml", "--config", str(SHRUNKEN)]
    backbones = ["--model.backbones", f"[{checkpoint},{checkpoint}]", "--runs_dir", str(runs_dir)]
    return ["fit", *config, *backbones, *words]


def test_fusion_over_a_backbone_of_another_split_is_refused(trained, tmp_path, capsys):
    assert cli.main(fusion(trained, tmp_path / "fused", "--data.split_seed", "1")) == 2
    message = capsys.readouterr().err
    assert "was trained or selected on" in message
    assert "phantom-0-" in message  # names the patients
    assert not list((tmp_path / "fused").rglob("*.ckpt"))


def test_the_same_split_is_accepted(trained, tmp_path):
    assert cli.main(fusion(trained, tmp_path / "fused", "--trainer.max_epochs", "1")) == 0


def test_the_user_may_override_it_in_writing(trained, tmp_path):
    words = fusion(
        trained, tmp_path / "fused", "--data.split_seed", "1", "--trainer.max_epochs", "1"
    )
    assert cli.main([*words, "--data.allow_seen_patients", "true"]) == 0


def test_another_cohort_prepared_otherwise_is_refused(trained, tmp_path, capsys):
    assert cli.main(fusion(trained, tmp_path / "fused", "--data.spacing", "6.0")) == 2
    assert "spacing 8.0" in capsys.readouterr().err


def test_real_patients_are_an_external_test_set(trained, real_data, tmp_path):
    names = ["BraTS2021_00006", "BraTS2021_01477"]
    for name in names:
        shutil.copytree(real_data / "brats2021" / name, tmp_path / "ward" / name)
    words = ["test", "--ckpt_path", str(trained), "--data.root", str(tmp_path / "ward")]
    assert cli.main([*words, "--results_dir", str(tmp_path / "scores")]) == 0
    table = (tmp_path / "scores" / "per_case.csv").read_text()
    assert [name for name in names if name in table] == names
    assert table.count("BraTS2021_0") == len(names)


def test_testing_at_another_spacing_is_refused(trained, capsys):
    assert cli.main(["test", "--ckpt_path", str(trained), "--data.spacing", "3.0"]) == 2
    assert "leave data.spacing as the checkpoint has it" in capsys.readouterr().err
