"""A cohort's fingerprint follows what changes results: voxels, orientation, voxel sizes."""

import nibabel as nib
import numpy as np
import pytest

from datamodules import BraTSPatchDataModule
from datamodules.nifti.geometry import spacing_mark
from tests.datamodules.tiny_patients import LPS


@pytest.fixture
def cohort_of(tmp_path, write_case):
    """Open a cohort of three after a change of every file's image."""

    def make(name, change=lambda image: image, affine=LPS):
        root = tmp_path / name
        for number in range(3):
            for file in write_case(root, number, affine=affine).iterdir():
                image = nib.load(file)
                values = np.asarray(image.dataobj).copy()  # the file is written over
                nib.save(change(nib.Nifti1Image(values, image.affine)), file)
        return BraTSPatchDataModule(
            root=str(root), spacing=1.0, patch_size=[16, 16, 16], cache_dir=str(tmp_path / "cache")
        )

    return make


def scaled(by):
    return LPS @ np.diag([by, by, by, 1])


def moved(image):
    affine = image.affine.copy()
    affine[:3, 3] += 40
    return nib.Nifti1Image(image.dataobj, affine)


def by_qform(image):
    image.set_qform(image.affine, code=1)
    image.header["sform_code"] = 0
    return image


def flipped(image):
    return image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))


def mirrored(image):  # the header alone: another side of the head
    return nib.Nifti1Image(image.dataobj, image.affine @ np.diag([-1, 1, 1, 1]))


def test_a_mended_header_is_another_cohort_of_the_same_patients(cohort_of):
    wrong, mended = cohort_of("wrong"), cohort_of("mended", affine=scaled(2.0))
    assert wrong.fingerprint() != mended.fingerprint()
    assert wrong.voxel_fingerprint() == mended.voxel_fingerprint()
    assert wrong.case_hashes() == mended.case_hashes()  # the patients stay the same
    assert cohort_of("again").fingerprint() == wrong.fingerprint()


@pytest.mark.parametrize("change", [by_qform, flipped, moved])
def test_the_same_voxels_of_the_same_size_stored_otherwise_are_the_same_cohort(change, cohort_of):
    affine = scaled(0.859375)
    first, stored = cohort_of("a", affine=affine), cohort_of("b", change, affine)
    assert first.fingerprint() == stored.fingerprint()


def test_the_other_side_of_the_head_is_another_cohort(cohort_of):
    assert cohort_of("a").fingerprint() != cohort_of("b", mirrored).fingerprint()


def test_no_common_voxel_size_is_changed_by_float32():
    edges = {view / size for view in range(180, 321, 4) for size in (192, 224, 256, 320, 448, 512)}
    for edge in [*edges, *(number / 100 for number in range(20, 800))]:
        near = [edge * (1 + noise) for noise in (-2e-7, 0, 2e-7)]
        assert len({spacing_mark((one,))[0] for one in near}) == 1, edge
    assert spacing_mark((1.0,)) != spacing_mark((1.001,))
