"""A checkpoint never meets a patient it was trained or selected on in its own test set."""

import pytest

import cli
from tests.conftest import SHRUNKEN


@pytest.fixture
def trained(in_workplace):
    """A stage-1 checkpoint, trained on the split of seed 0."""
    config = ["--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN)]
    assert cli.main(["fit", *config]) == 0
    folders = (in_workplace / "runs" / "dynunet").iterdir()
    return next(path for path in folders if path.is_dir()) / "checkpoints" / "best.ckpt"


def fusion(checkpoint, runs_dir, *words):
    config = ["--config", "experiments/early_fusion.yaml", "--config", str(SHRUNKEN)]
    backbones = ["--model.backbones", f"[{checkpoint},{checkpoint}]", "--runs_dir", str(runs_dir)]
    return ["fit", *config, *backbones, *words]


def test_fusion_over_a_backbone_of_another_split_is_refused(trained, tmp_path, capsys):
    assert cli.main(fusion(trained, tmp_path, "--data.split_seed", "1")) == 2
    message = capsys.readouterr().err
    assert "was trained or selected on" in message
    assert "phantom-0-" in message  # names the patients
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_same_split_is_accepted(trained, tmp_path):
    assert cli.main(fusion(trained, tmp_path, "--trainer.max_epochs", "1")) == 0


def test_the_user_may_override_it_in_writing(trained, tmp_path):
    words = fusion(trained, tmp_path, "--data.split_seed", "1", "--trainer.max_epochs", "1")
    assert cli.main([*words, "--data.allow_seen_patients", "true"]) == 0


def test_another_cohort_prepared_otherwise_is_refused(trained, tmp_path, capsys):
    assert cli.main(fusion(trained, tmp_path, "--data.spacing", "8.0")) == 2
    assert "spacing 6.0" in capsys.readouterr().err


def test_real_patients_are_an_external_test_set(trained, real_data, tmp_path, capsys):
    words = ["test", "--ckpt_path", str(trained), "--data.root", str(real_data / "brats2021")]
    assert cli.main([*words, "--results_dir", str(tmp_path)]) == 0
    table = (tmp_path / "per_case.csv").read_text()
    assert table.count("BraTS2021_0") == len(list((real_data / "brats2021").iterdir()))


def test_testing_at_another_spacing_is_refused(trained, capsys):
    assert cli.main(["test", "--ckpt_path", str(trained), "--data.spacing", "3.0"]) == 2
    assert "leave data.spacing as the checkpoint has it" in capsys.readouterr().err
