import json

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules.cases.cache import prepare_cohort
from datamodules.cases.settings import Preparation, from_slices, to_slices
from datamodules.patients.find import find_cases
from datamodules.slices.slice_case import SliceCase
from tests.datamodules.tiny_patients import LPS, SHAPE, make_volumes

ANISOTROPIC = np.array(
    [[0.9, 0.02, 0, -8], [-0.02, 1.1, 0.05, 4], [0, -0.06, 2.5, 3], [0, 0, 0, 1]]
)
SAGITTAL = np.array([[0, 0, 2.0, 3], [-1, 0, 0, 9], [0, -1, 0, 2], [0, 0, 0, 1]])
GRIDS = {
    "LPS": (LPS, SHAPE),
    "LAS": (np.diag([-1.0, 1, 1, 1]), SHAPE),
    "sagittal": (SAGITTAL, (30, 26, 22)),
    "anisotropic and oblique": (ANISOTROPIC, SHAPE),
}


@pytest.fixture
def prepare(tmp_path, write_case):
    """`prepare(affine, shape, spacing, size)`: a tiny case as slices."""

    def make(affine=LPS, shape=SHAPE, spacing=1.0, size=64, **how):
        root = tmp_path / "data"
        write_case(root, 3, affine=affine, shape=shape)
        wanted = Preparation(spacing, by_slice=True, **how)
        ((case,), problems) = prepare_cohort(
            find_cases(root), tmp_path / "cache", wanted, progress=False
        )
        assert not problems
        return SliceCase(case.files, case.folder, size)

    return make


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_slices_and_volumes_are_views_of_each_other():
    volume = np.arange(4 * 3 * 5 * 2).reshape(4, 3, 5, 2)
    slices = to_slices(volume)
    assert slices.shape == (2, 4, 5, 3)
    assert slices[1, 2, 0, 0] == volume[2, -1, -1, 1]  # top left: anterior, the patient's right
    np.testing.assert_array_equal(from_slices(slices), volume)
    assert np.shares_memory(slices, volume)
    np.testing.assert_array_equal(from_slices(to_slices(volume[0])), volume[0])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("spacing", [1.0, 1.7])
def test_the_way_back_is_exact_in_position(prepare, name, spacing):
    affine, shape = GRIDS[name]
    case = prepare(affine, shape, spacing)
    reference = case.native_regions()
    back = case.to_native(case.padded_labels()[:, None] != 0) > 0.5
    assert back.shape == reference.shape == (1, *shape)
    if case.geometry.resamples:
        assert dice(back, reference) > (0.95 if spacing == 1.0 else 0.9)
    else:
        np.testing.assert_array_equal(back, reference)


@pytest.mark.parametrize("name", GRIDS)
def test_a_slice_keeps_its_place_and_its_distance(prepare, name):
    affine, shape = GRIDS[name]
    case = prepare(affine, shape, 1.7)
    assert case.spacing[:2] == (1.7, 1.7)
    assert case.spacing[2] == pytest.approx(case.geometry.native_spacing[2])
    native = case.native_slices(case.native_regions()[0])
    prepared = case.padded_labels().numpy() != 0
    assert len(native) == case.slices == len(prepared)
    areas = [float(native[i].sum() * np.prod(case.native_pixel)) for i in range(case.slices)]
    np.testing.assert_allclose(prepared.sum((1, 2)) * 1.7**2, areas, atol=25)
    assert case.tumour_area == prepared.sum((1, 2)).tolist()


def test_slices_are_shown_as_in_radiology(prepare):
    """A mark near the patient's right ear and one at the forehead, whatever the file's axes."""
    for affine, shape in GRIDS.values():
        case = prepare(affine, shape)
        canonical = nib.as_closest_canonical(
            nib.Nifti1Image(case.native_image("t2"), case.native_affine)
        ).get_fdata()
        slices = case.native_slices(case.native_image("t2"))
        first = case.geometry.start[2]
        np.testing.assert_array_equal(slices[2].T, canonical[::-1, ::-1, first + 2])


def test_padding_is_background_around_a_centred_box(prepare):
    case = prepare(size=48)
    image = case.padded_images()
    assert image.shape == (case.slices, 4, 48, 48)
    assert image.dtype == torch.float16
    np.testing.assert_array_equal(case.from_slices(image), case.image)
    np.testing.assert_array_equal(case.from_slices(case.padded_labels()[:, None])[0], case.label)
    inside = (image != 0).any(0).any(0)
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert abs(int(rows[0]) - (47 - int(rows[-1]))) <= 1
    assert abs(int(columns[0]) - (47 - int(columns[-1]))) <= 1
    assert torch.equal(case.padded_images(4, 6), image[4:6])
    with pytest.raises(ValueError, match="48 pixels"):
        case.from_slices(image[:, :, :40])


def test_a_slice_key_names_its_pixels(prepare):
    keys = {prepare(size=64).slice_key(3), prepare(size=64).slice_key(3)}
    assert len(keys) == 1
    others = [prepare(size=64).slice_key(4), prepare(size=48).slice_key(3)]
    others.append(prepare(spacing=1.7).slice_key(3))
    assert len({*keys, *others}) == 4


def test_the_mask_is_the_whole_tumour_and_nothing_else(prepare):
    case = prepare()
    assert case.mask().shape == (1, *case.shape)
    np.testing.assert_array_equal(case.native_regions()[0], make_volumes(3)[1] > 0)
    assert case.mask().sum() == np.count_nonzero(case.label)


def test_a_brain_larger_than_the_slice_names_what_to_set(prepare):
    assert prepare(size=32).problem() == ""
    text = prepare(size=16).problem()
    assert "data.slice_size to 32" in text
    assert "data.spacing to" in text
    spacing = float(text.rsplit(" ", 1)[1])
    assert prepare(size=16, spacing=spacing).problem() == ""


def test_a_missing_modality_is_background(tmp_path, write_case):
    folder = write_case(tmp_path / "data", 3)
    whole = Preparation(1.0, by_slice=True, missing="zero")
    ((full,), _) = prepare_cohort(find_cases(tmp_path / "data"), tmp_path / "c", whole)
    (folder / "BraTS2021_00003_t1.nii.gz").unlink()
    ((found,), problems) = prepare_cohort(find_cases(tmp_path / "data"), tmp_path / "c", whole)
    case = SliceCase(found.files, found.folder, 32)
    assert not problems
    assert case.missing == ("t1",)
    assert not case.image[0].any()
    assert not case.native_image("t1").any()
    assert any("t1 is missing" in notice for notice in case.notices)
    assert case.content_hash != full.content_hash
    _, problems = prepare_cohort(
        find_cases(tmp_path / "data"), tmp_path / "c", Preparation(1.0, by_slice=True)
    )
    assert "t1 is missing" in problems["BraTS2021_00003"]


def test_what_the_cache_wrote_is_plain(prepare):
    assert json.loads(json.dumps(prepare().described)) == prepare().described


def test_files_that_were_never_apart_have_no_other_grids(prepare, tmp_path):
    assert prepare().save_on_modalities(tmp_path / "x_seg.nii.gz") == []
