"""The 2D study refuses a wrong input in one sentence, before training, and keeps what it has."""

import gzip
import pickle
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import cli
from backbones.sam.variants import VARIANTS
from lightning_modules.weights.published import PUBLISHED
from tests.conftest import SHRUNKEN_SLICES
from tests.test_wrong_input import refused


def fit(name, *words):
    config = ["--config", f"experiments/{name}.yaml", "--config", str(SHRUNKEN_SLICES)]
    return ["fit", *config, *words]


def adapter(*words):
    """The adapter on a random base, which needs no download."""
    return fit("sam_adapter", "--model.weights", "random", *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.slice_size", "102"], "expected a multiple of 4"),
        (["--data.slice_size", "100", "--model.image_size", "100"], "positive multiple of 16"),
        (["--data.slice_size", "128"], "data.slice_size is 128 and model.image_size 64"),
        (["--data.n_folds", "40"], "data.n_folds is 40 for 6 patients"),
        (["--data.selection", "best"], "selection"),
        (["--data.empty_fraction", "1.0"], "empty_fraction"),
        (["--data.regions", "WT,ET,TC"], "expected WT,TC,ET"),
        (["--model.regions", "[WT,TC,ET]"], "give data.regions alone"),
        (["--model.network.init_args.first_blocks", "13"], "from 0 to 10"),
        (["--model.network.init_args.merge", "max"], "merge"),
        (["--model.network.init_args.groups", "[[t1,t2],[t2,flair]]"], "stands twice"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_settings(words, expected, in_workplace, tmp_path, capsys):
    assert expected in refused(capsys, *adapter(*words, "--runs_dir", str(tmp_path)))
    assert not list(tmp_path.rglob("*.ckpt"))


def official_like(path, dim):
    """A file with the first names of an official checkpoint, as wide as `dim`."""
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, dim)}, path)
    return path


def test_weights(in_workplace, tmp_path, capsys):
    wrong = official_like(tmp_path / "sam_l.pth", VARIANTS["vit_l"].shape.dim)
    (tmp_path / "cut.pth").write_bytes(wrong.read_bytes()[:200])
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(print, protocol=2))
    (tmp_path / "sam_vit_b_01ec64.pth").write_bytes(wrong.read_bytes())
    sentences = {
        str(wrong): "vit_b",
        str(tmp_path / "cut.pth"): "truncated",
        str(tmp_path / "pickle.pth"): "could run code",
        str(tmp_path / "sam_vit_b_01ec64.pth"): "truncated or altered",
        str(tmp_path / "absent.pth"): "No weights at",
    }
    for path, expected in sentences.items():
        words = ["--model.variant", "vit_b", "--model.weights", path, "--runs_dir", str(tmp_path)]
        assert expected in refused(capsys, *fit("sam_adapter", *words))


def test_absent_official_checkpoint_offline(in_workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    nowhere = replace(PUBLISHED["vit_b"], url="http://127.0.0.1:9/sam_vit_b_01ec64.pth")
    monkeypatch.setitem(PUBLISHED, "vit_b", nowhere)
    words = ["--model.variant", "vit_b", "--model.weights", "published"]
    message = refused(capsys, *fit("sam_adapter", *words, "--runs_dir", str(tmp_path)))
    assert "sam_vit_b_01ec64.pth" in message
    assert "--model.weights random" in message


@pytest.fixture
def exams(trainings, in_workplace, tmp_path):
    """Two raw exams of the embedded cohort, to be spoilt."""
    cohort = trainings.phantoms("sam_t1")
    for exam in sorted(path for path in cohort.iterdir() if path.is_dir())[:2]:
        shutil.copytree(exam, tmp_path / "exams" / exam.name)
    return tmp_path / "exams"


def rewrite(file, change):
    image = nib.load(file)
    array = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(array, image.affine), file)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda exam: shutil.copy(exam["flair"], exam["folder"] / "x_FLA.nii.gz"), "flair"),
        (lambda exam: rewrite(exam["t1"], lambda array: array[:, :, 3]), "t1"),
        (lambda exam: rewrite(exam["flair"], lambda array: array[:, :, :1]), "flair"),
        (lambda exam: exam["t2"].unlink(), "t2"),
        (lambda exam: exam["t1ce"].write_bytes(gzip.compress(b"no image")), "t1ce"),
    ],
    ids=["two series", "2D", "one slice", "no T2", "damaged"],
)
def test_exams(spoil, expected, exams, capsys):
    folder = sorted(exams.iterdir())[0]
    files = {name: next(folder.glob(f"*_{name}.nii.gz")) for name in ("t1", "t1ce", "t2", "flair")}
    spoil({**files, "folder": folder})
    words = ["--data.root", str(exams), "--runs_dir", str(exams.parent / "runs")]
    assert cli.main([*adapter(*words)]) == 2
    message = capsys.readouterr().err.lower()
    assert "traceback" not in message
    assert expected in message.lower()
    assert folder.name.lower() in message
    assert not list((exams.parent / "runs").rglob("*.ckpt"))
