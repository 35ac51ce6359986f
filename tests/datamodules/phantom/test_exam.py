"""A hospital exam of a phantom: own grids, known motion, label on T2."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom.exam import MAX_DEGREES, MAX_MM, draw_motion
from datamodules.phantom.simulation import generate_cohort

sitk = pytest.importorskip("SimpleITK")


@pytest.fixture(scope="module")
def exam(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exam")
    generate_cohort(out, 1, seed=5, layout="exam", spacing=2.0, progress=False)
    return out / "SYN-EXAM-001"


def read(exam: Path, name: str):
    return sitk.ReadImage(str(exam / f"{exam.name}_{name}.nii.gz"), sitk.sitkFloat32)


def overlap(first, second) -> float:
    a, b = (sitk.GetArrayFromImage(image) > 0.5 for image in (first, second))
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("modality", ["t1", "t1ce", "flair"])
def test_true_transform_realigns_the_moving_image(exam, modality):
    t2 = read(exam, "t2")
    moving = sitk.Cast(read(exam, modality) > 0, sitk.sitkFloat32)
    truth = sitk.ReadTransform(str(exam / f"true_{modality}_to_t2.tfm"))
    mask = sitk.Cast(t2 > 0, sitk.sitkFloat32)
    aligned = overlap(mask, sitk.Resample(moving, t2, truth, sitk.sitkLinear))
    assert aligned > 0.97
    assert aligned > overlap(mask, sitk.Resample(moving, t2, sitk.Transform(), sitk.sitkLinear))
    assert aligned > overlap(mask, sitk.Resample(moving, t2, truth.GetInverse())) + 0.01


def test_every_modality_has_a_grid_of_its_own(exam):
    images = {m: nib.load(exam / f"{exam.name}_{m}.nii.gz") for m in ("t1", "t1ce", "t2", "flair")}
    assert len({nib.aff2axcodes(i.affine) for i in images.values()}) == 4
    assert len({i.shape for i in images.values()}) == 4
    label = nib.load(exam / f"{exam.name}_seg.nii.gz")
    np.testing.assert_array_equal(label.affine, images["t2"].affine)
    assert label.shape == images["t2"].shape
    assert set(np.unique(np.asanyarray(label.dataobj))) <= {0, 1, 2, 3}
    assert (np.asanyarray(images["t2"].dataobj)[np.asanyarray(label.dataobj) > 0] > 0).all()


def test_every_file_says_synthetic(exam):
    for file in exam.iterdir():
        if file.name.endswith(".nii.gz"):
            assert b"SYNTHETIC" in bytes(nib.load(file).header["descrip"])
        else:
            assert "SYNTHETIC" in file.read_text()
    assert "SYNTHETIC" in (exam.parent / "SYNTHETIC.txt").read_text()


def test_motion_stays_within_its_limits_and_follows_simpleitk():
    motions = [draw_motion(np.random.default_rng(i)) for i in range(300)]
    degrees = np.array([m.degrees for m in motions])
    shifts = np.array([np.linalg.norm(m.shift) for m in motions])
    assert degrees.max() <= MAX_DEGREES
    assert shifts.max() <= MAX_MM
    assert degrees.max() > 0.9 * MAX_DEGREES
    assert shifts.max() > 0.9 * MAX_MM
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*motions[0].angles.tolist())
    transform.SetTranslation(motions[0].shift.tolist())
    point = np.array([30.0, -20.0, 10.0])
    np.testing.assert_allclose(
        transform.TransformPoint(point.tolist()), motions[0].rotation @ point + motions[0].shift
    )
