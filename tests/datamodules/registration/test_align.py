"""One sequence registered to T2: known motions of phantoms, what is flagged, the real exam."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from datamodules.layouts.conventions import CANONICAL
from datamodules.nifti.volume import Volume
from datamodules.registration.align import align
from datamodules.registration.label import label_on_reference
from datamodules.registration.patient import on_reference
from datamodules.registration.scan import Scan, read_scan, to_sitk, to_world
from errors import InputError
from tests.datamodules.exam_phantoms import exams as exams  # the session's phantoms

pytestmark = pytest.mark.slow

sitk = pytest.importorskip("SimpleITK")

LPS = np.diag([-1.0, -1.0, 1.0])


def scan(folder: Path, modality: str) -> Scan:
    return read_scan(modality, folder / f"{folder.name}_{modality}.nii.gz")


def distance(first, second, points: np.ndarray) -> float:
    """Mean mm between where two transforms put the points."""
    apart = [
        np.subtract(first.TransformPoint(p.tolist()), second.TransformPoint(p.tolist()))
        for p in points[::20]
    ]
    return float(np.linalg.norm(apart, axis=1).mean())


def moved(volume: Volume, motion) -> Volume:
    """The same voxels, the head elsewhere: the motion is applied to the header."""
    rotation = LPS @ np.reshape(motion.GetMatrix(), (3, 3)) @ LPS
    origin = LPS @ np.asarray(motion.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, origin
    return Volume(volume.array, matrix @ volume.affine, volume.header)


@pytest.mark.parametrize(("number", "modality"), [(0, "t1"), (0, "t1ce"), (0, "flair"), (1, "t1")])
def test_known_motion_is_found(exams, number, modality):
    folder = sorted(exams.glob("SYN*"))[number]
    fixed = scan(folder, "t2")
    result = align(fixed, scan(folder, modality))
    truth = sitk.ReadTransform(str(folder / f"true_{modality}_to_t2.tfm"))
    assert distance(result.transform, truth, fixed.points) < 1.0
    assert not result.flags
    assert result.after > result.before
    assert result.overlap > 0.9
    centre = fixed.centre
    shift = np.asarray(truth.TransformPoint(centre.tolist())) - centre
    np.testing.assert_allclose(result.shift, shift, atol=1.0)


def test_a_whole_head_in_noise_is_found_too(exams):
    """Scalp around the brain and noise where there was nothing; the scalp moves along."""
    from scipy import ndimage as ndi

    folder = sorted(exams.glob("SYN*"))[0]
    rng = np.random.default_rng(0)
    truth = sitk.Euler3DTransform()
    truth.SetRotation(0.2, -0.15, 0.1)
    truth.SetTranslation((9.0, -7.0, 12.0))

    def head(modality: str) -> Volume:
        volume = scan(folder, modality).volume
        array = volume.array.astype(np.float32)
        away = ndi.distance_transform_edt(array == 0, sampling=volume.spacing)
        top = float(np.percentile(array[array > 0], 95))
        array = array + np.where((away > 8) & (away < 14), 1.1 * top, 0)
        noise = rng.normal(0, 0.03 * top, (2, *array.shape))
        return Volume(np.hypot(array + noise[0], noise[1]), volume.affine, b"")

    fixed = Scan("t2", head("t2"))
    assert (fixed.volume.array > 0).all()
    still = Scan("t2 again", head("t2"))
    result = align(fixed, Scan("t2 again", moved(still.volume, truth)))
    assert distance(result.transform, truth, fixed.points) < 0.5
    assert not result.flags


def test_unrelated_scanner_positions_are_found_and_flagged(exams):
    folder = sorted(exams.glob("SYN*"))[0]
    fixed, moving = scan(folder, "t2"), scan(folder, "flair")
    truth = sitk.ReadTransform(str(folder / "true_flair_to_t2.tfm"))
    away = sitk.Euler3DTransform()
    away.SetTranslation((150.0, -80.0, 40.0))
    result = align(fixed, Scan("flair", moved(moving.volume, away)))
    assert distance(result.transform, sitk.CompositeTransform([away, truth]), fixed.points) < 1.0
    assert "flair moved by" in result.flags[0]


@pytest.mark.parametrize("wrong", ["noise", "mirrored"])
def test_what_fits_nowhere_is_flagged(exams, wrong):
    folder = sorted(exams.glob("SYN*"))[0]
    moving = scan(folder, "t1ce").volume
    if wrong == "noise":
        values = np.random.default_rng(0).integers(0, 900, moving.array.shape).astype(np.int16)
        values[moving.array == 0] = 0
    else:
        values = moving.array[::-1]  # front and back change places
    result = align(scan(folder, "t2"), Scan("t1ce", Volume(values, moving.affine, b"")))
    assert result.flags


def test_too_little_overlap_is_flagged(exams):
    folder = sorted(exams.glob("SYN*"))[0]
    fixed, moving = scan(folder, "t2"), scan(folder, "t1ce").volume
    values = moving.array.copy()
    values[:, : int(0.62 * values.shape[1])] = 0  # sagittal, rows upwards from below
    result = align(fixed, Scan("t1ce", Volume(values, moving.affine, b"")))
    assert any("shows only" in flag for flag in result.flags)


def test_the_same_images_give_the_same_transform(exams):
    folder = sorted(exams.glob("SYN*"))[0]
    first, second = (
        align(scan(folder, "t2"), scan(folder, "t1")).transform.GetParameters() for _ in range(2)
    )
    assert first == second


def test_positions_are_those_of_the_file(exams):
    """A voxel's place by our way through the RAS affine is SimpleITK's own, in LPS."""
    for path in sorted(sorted(exams.glob("SYN*"))[0].glob("*.nii.gz")):
        scanned = sitk.ReadImage(str(path))
        ours = to_sitk(sitk.GetArrayFromImage(scanned).T, read_affine(path))
        index = np.array([[0, 0, 0], [3, 5, 7]])
        expected = [scanned.TransformIndexToPhysicalPoint(i.tolist()) for i in index]
        np.testing.assert_allclose(to_world(ours, index), expected, atol=1e-3)


def read_affine(path: Path) -> np.ndarray:
    from datamodules.nifti.volume import read_volume

    return read_volume(path).affine


def test_a_sheared_grid_is_refused():
    affine = np.eye(4)
    affine[0, 2] = 0.2
    with pytest.raises(InputError, match="gantry tilt"):
        to_sitk(np.zeros((4, 4, 4), np.float32), affine)


def test_the_real_exam_moves_back_from_where_it_was_put(real_data):
    folder = real_data / "exams" / "TCGA-DU-7294"
    if not folder.is_dir():
        pytest.skip(f"no exam at {folder}")
    fixed = read_scan("t2", next(folder.glob("*_t2.nii.gz")))
    moving = read_scan("t1ce", next(folder.glob("*_t1c.nii.gz")))
    base = align(fixed, moving)
    assert not base.flags
    assert base.degrees < 3
    assert base.shift_mm < 3
    motion = sitk.Euler3DTransform()
    motion.SetRotation(-0.2, 0.2, 0.15)
    motion.SetTranslation((8.0, -12.0, 10.0))
    again = align(fixed, Scan("t1ce", moved(moving.volume, motion)))
    expected = sitk.CompositeTransform([motion, base.transform])
    assert distance(again.transform, expected, fixed.points) < 0.5


def test_what_is_resampled_outlives_the_image_it_came_from(exams, tmp_path):
    """A view of SimpleITK's memory would change when that memory is used again."""
    found = scan(sorted(exams.glob("SYN*"))[0], "t2")
    affine, shape = found.volume.affine, found.volume.array.shape
    found.volume = Volume(np.full(shape, 7, np.float32, order="F"), affine, b"")
    drawn = tmp_path / "drawn.nii.gz"
    nib.save(nib.Nifti1Image(np.full(shape, 2, np.uint8), affine), drawn)
    alone = sitk.Transform(3, sitk.sitkIdentity)
    exam = SimpleNamespace(convention=CANONICAL)
    aligned = {"t1": SimpleNamespace(transform=alone)}

    image = on_reference(found, found.volume, alone)
    label, _ = label_on_reference(exam, drawn, "t1", found.volume, aligned, [])
    others = [np.full(shape, 9, dtype) for dtype in (np.float32, np.uint8) for _ in range(20)]
    inside = tuple(slice(1, -1) for _ in shape)  # the rim may lie outside by rounding
    assert len(others) == 40
    assert set(np.unique(image[inside])) == {7}
    assert set(np.unique(label[inside])) == {2}
