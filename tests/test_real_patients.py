"""Real patients: read, prepared, trained on for a few steps, predicted, written back."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest

import cli
from tests.conftest import SHRUNKEN

pytestmark = pytest.mark.slow

MODALITIES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def trained(workplace, real_data):
    """A backbone trained for two steps on real patients; returns its run folder."""
    words = ["fit", "--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN)]
    root = ["--data.root", str(real_data / "brats2021"), "--runs_dir", str(workplace / "runs-real")]
    assert cli.main([*words, *root, "--trainer.max_epochs", "1"]) == 0
    folders = (workplace / "runs-real" / "dynunet").iterdir()
    return next(path for path in folders if path.is_dir())


def predict(trained, output, *words):
    checkpoint = str(trained / "checkpoints" / "best.ckpt")
    return cli.main(["predict", "--ckpt_path", checkpoint, "--output", str(output), *words])


def on_the_grid_of(written, source):
    ours, theirs = nib.load(written), nib.load(source)
    assert ours.shape == theirs.shape
    assert np.array_equal(ours.affine, theirs.affine)
    assert set(np.unique(np.asarray(ours.dataobj))) <= {0, 1, 2, 4}


def test_scored_on_the_original_grid(trained):
    assert cli.main(["test", "--ckpt_path", str(trained / "checkpoints" / "best.ckpt")]) == 0
    with (trained / "per_case.csv").open(newline="") as handle:
        (row,) = list(csv.DictReader(handle))
    assert row["case_id"].startswith("BraTS2021_")
    assert float(row["volume_ml/WT"]) > 1


def test_a_folder_of_patients(trained, real_data, tmp_path):
    root, out = tmp_path / "ward", tmp_path / "out"
    for name in ("BraTS2021_00006", "BraTS2021_01477"):
        shutil.copytree(real_data / "brats2021" / name, root / name)
    assert predict(trained, out, "--data.root", str(root)) == 0
    for folder in root.iterdir():
        on_the_grid_of(out / f"{folder.name}_seg.nii.gz", folder / f"{folder.name}_flair.nii.gz")
        assert (out / f"{folder.name}.png").stat().st_size > 10_000


def test_four_files_of_one_patient(trained, real_data, tmp_path):
    folder = real_data / "brats2021" / "BraTS2021_01482"
    files = {name: folder / f"{folder.name}_{name}.nii.gz" for name in MODALITIES}
    words = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    assert predict(trained, tmp_path / "one", *words) == 0
    (written,) = (tmp_path / "one").glob("*.nii.gz")
    on_the_grid_of(written, files["t1"])


def test_good_patients_are_segmented_and_bad_ones_named(trained, real_data, tmp_path, capsys):
    root = tmp_path / "new"
    for name in ("BraTS2021_00006", "BraTS2021_01477"):
        shutil.copytree(real_data / "brats2021" / name, root / name)
    damaged = root / "BraTS2021_01477" / "BraTS2021_01477_t2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:20_000])
    assert predict(trained, tmp_path / "out", "--data.root", str(root)) == 1
    printed = capsys.readouterr().out
    assert "1 could not be segmented" in printed
    assert "BraTS2021_01477" in printed
    assert (tmp_path / "out" / "BraTS2021_00006_seg.nii.gz").is_file()
