"""Weights that ship: exported, checked, and used by `predict` without a training."""

import json
from pathlib import Path

import nibabel as nib
import pytest
import torch

from datamodules.nifti.headers import SYNTHETIC_TRAINING
from errors import InputError
from evaluation.tables.per_case import write_csv
from lightning_modules.weights.checkpoints import KEY, load_module
from speed.commands import shipped_weights
from studies.runs.run import run_at
from studies.training import shipped
from studies.training.shipped import check_shipped, find_shipped
from studies.training.shipping import check_equal, command_of, slim, wall_seconds
from tests.datamodules.tiny_patients import make_volumes, save
from tests.trainings import lightning

CASE = "BraTS2021_00003"


@pytest.fixture
def patients(tmp_path):
    """Folder of one patient who is no phantom."""
    images, label = make_volumes(3, (60, 66, 54))
    for name, array in {**images, "seg": label}.items():
        save(array, tmp_path / "patients" / CASE / f"{CASE}_{name}.nii.gz")
    return str(tmp_path / "patients")


@pytest.fixture
def run(trainings, home):
    """A copy of a finished and tested run of late fusion, beside its stages."""
    folder = trainings.copy(trainings.tested("late_fusion"), home)
    for stage in ("dynunet", "segresnet"):
        trainings.copy(trainings.trained(stage), home)
    return folder


@pytest.fixture
def weights(run, monkeypatch):
    """The exported checkpoint, in place of the project's folder of weights."""
    status, text = lightning("export", str(run), "--out", "weights")
    assert status == 0, text
    assert "its logits equal to the last bit" in text
    monkeypatch.setattr(shipped, "WEIGHTS", Path("weights").resolve())
    return Path("weights").resolve() / "late_fusion.ckpt"


def test_an_exported_file_holds_the_weights_and_nothing_of_the_machine(run, weights):
    content = torch.load(weights, weights_only=True)
    original = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert set(content) == {"state_dict", KEY}
    assert {"callbacks", "optimizer_states"} <= set(original)
    assert all(torch.equal(content["state_dict"][k], v) for k, v in original["state_dict"].items())
    text = json.dumps(content[KEY])
    assert str(run) not in text
    assert '"/' not in text.replace('\\"', '"')
    manifest = json.loads(weights.with_suffix(".json").read_text())
    assert manifest["command"][:2] == ["lightning", "fit"]
    assert "--resume" not in manifest["command"]
    assert manifest["run"] == {"experiment": "late_fusion", "id": run.name}
    tested = json.loads((run / "manifest.json").read_text())["test_scores"]["dice/WT"]
    assert manifest["scores"]["held-out phantoms"]["dice/WT"] == pytest.approx(tested, abs=1e-4)
    card = weights.with_suffix(".md").read_text()
    for part in ("any clinical decision", "Apache-2.0", "McGill University", "held-out phantoms"):
        assert part in card


def test_predict_without_a_training_uses_them_and_marks_every_output(weights, patients):
    status, text = lightning("predict", "--data.root", patients, "--output", "out")
    assert status == 0, text
    assert f"Using the weights that come with the project, {weights}" in text
    assert f"Note         {SYNTHETIC_TRAINING}" in text
    assert f"{CASE}: " in text
    header = nib.load(f"out/{CASE}_seg.nii.gz").header
    assert header["descrip"].tobytes().rstrip(b"\0").decode() == SYNTHETIC_TRAINING
    names, row = Path("out/volumes.csv").read_text().splitlines()
    assert names.endswith(",doubts,remark")
    assert row.endswith(f",{SYNTHETIC_TRAINING}")
    assert "unlike the training patients: " in row  # noise in an ellipsoid


def test_a_test_on_patients_who_are_no_phantoms_says_what_was_trained_on(weights, patients):
    words = ("--data.root", patients, "--results_dir", "scores")
    status, text = lightning("test", "--ckpt_path", str(weights), *words)
    assert status == 0, text
    assert f"Note         {SYNTHETIC_TRAINING}" in text
    status, text = lightning("export", "late_fusion", "--out", "w2", "--scores", "own=scores/x.csv")
    assert status == 2
    assert "--scores own=scores/x.csv: there is no such file" in text
    words = ("--out", "w2", "--name", "named", "--scores", "own=scores/per_case.csv")
    status, text = lightning("export", "late_fusion", *words)
    assert status == 0, text
    manifest = check_shipped(Path("w2/named.ckpt"))
    assert manifest["scores"]["own"]["patients"] == 1
    assert "| own | 1 |" in Path("w2/named.md").read_text()
    words = ("--out", "w3", "--scores", "validation=scores/per_case.csv")
    status, text = lightning("export", "late_fusion", *words)
    assert (status, "validation has scores already" in text) == (2, True)
    record = json.loads(Path("scores/test.json").read_text())
    for change in ({"data.drop": "['t1']"}, {"checkpoint": record["checkpoint"] + " + other"}):
        Path("scores/test.json").write_text(json.dumps({**record, **change}))
        words = ("--out", "w3", "--scores", "own=scores/per_case.csv")
        status, text = lightning("export", "late_fusion", *words)
        assert (status, "--scores own=scores/per_case.csv: it " in text) == (2, True)


def test_a_table_of_another_checkpoint_is_no_score_of_these_weights(run, tmp_path):
    write_csv([{"case_id": "p", "dice/WT": 0.9}], tmp_path / "other" / "per_case.csv")
    words = ("--out", "w", "--scores", f"own={tmp_path}/other/per_case.csv")
    status, text = lightning("export", str(run), *words)
    assert status == 2
    assert f"it is no test of late_fusion/{run.name}" in text
    assert not Path("w").exists()


def test_the_dry_run_checks_the_file_against_its_manifest(weights, capsys):
    shipped_weights.main(["--dry-run"])
    assert "the weights of late_fusion/" in capsys.readouterr().out
    module = load_module(weights)
    torch.save({KEY: module.card, "state_dict": module.state_dict()}, weights)
    with pytest.raises(InputError, match=r"is not the file that late_fusion\.json describes"):
        shipped_weights.main(["--dry-run"])
    weights.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"has no manifest late_fusion\.json beside it"):
        find_shipped()


def test_other_logits_are_noticed(run, tmp_path):
    best = run / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=True)
    torch.save(slim(content), tmp_path / "same.ckpt")
    check_equal(best, tmp_path / "same.ckpt")
    name = next(name for name in content["state_dict"] if name.endswith("bias"))
    content["state_dict"][name] += 1e-3
    torch.save(slim(content), tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="has other logits than"):
        check_equal(best, tmp_path / "other.ckpt")


def test_a_run_that_saw_real_patients_is_never_exported():
    card = {"synthetic": False, "config": {}}
    with pytest.raises(InputError, match="trained on real patients, whom its checkpoint names"):
        slim({KEY: card, "state_dict": {}})


def test_the_command_that_is_shipped_trains_anywhere(tmp_path):
    run = run_at(tmp_path)
    words = ["--config", "experiments/dynunet.yaml", "--data.cache_dir", "/a/b", "--resume"]
    words += ["--data.init_args.num_workers=2", "--seed_everything", "3", "--trainer.logger=false"]
    run.update_manifest(command=["lightning", "fit", *words])
    kept = ["--config", "experiments/dynunet.yaml", "--seed_everything", "3"]
    assert command_of(run) == ["lightning", "fit", *kept]
    (tmp_path / "own.yaml").touch()
    run.update_manifest(command=["lightning", "fit", "--config", str(tmp_path / "own.yaml")])
    with pytest.raises(InputError, match="no file of the project"):
        command_of(run)


def test_predict_without_weights_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    status, text = lightning("predict", "--data.root", str(tmp_path))
    assert status == 2
    assert f"No experiment is given, and {tmp_path} holds no weights to use instead: add" in text
    for name in ("a", "b"):
        (tmp_path / f"{name}.ckpt").touch()
    status, text = lightning("predict", "--data.root", str(tmp_path))
    assert status == 2
    assert "more than one checkpoint (a.ckpt, b.ckpt)" in text


@pytest.mark.parametrize("checkpoint", sorted(shipped.WEIGHTS.glob("*.ckpt")), ids=lambda p: p.stem)
def test_the_weights_in_the_repository_are_those_of_their_manifest(checkpoint, capsys):
    shipped_weights.main([str(checkpoint), "--dry-run"])
    assert "as its manifest says" in capsys.readouterr().out


def test_stages_that_ran_side_by_side_count_their_time_once():
    def trained(end, minutes):
        return {"finished_at": f"2026-05-01T{end}:00", "wall_seconds": 60.0 * minutes}

    side_by_side = [trained("10:30", 30), trained("10:40", 40)]
    assert wall_seconds([*side_by_side, trained("10:45", 5)]) == 45 * 60
    assert wall_seconds([trained("12:00", 5), *side_by_side]) == 45 * 60  # after a pause
    assert wall_seconds([trained("10:40", 40), trained("10:30", 10)]) == 40 * 60
