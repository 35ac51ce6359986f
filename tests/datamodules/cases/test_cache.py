import errno
import json
import multiprocessing
import os
import stat
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest

from datamodules.cases.cache import exclusively, prepare_cases, prepare_cohort
from datamodules.cases.intensity import BACKGROUND, normalise
from datamodules.layouts.case_files import MODALITIES
from datamodules.nifti.geometry import Geometry
from datamodules.patients.find import find_cases
from errors import InputError
from tests.datamodules.tiny_patients import LPS, SHAPE, make_volumes, save

ANISOTROPIC = np.array(
    [[0.9, 0.02, 0, -8], [-0.02, 1.1, 0.05, 4], [0, -0.06, 2.5, 3], [0, 0, 0, 1]]
)
ORIENTATIONS = {
    "LPS": LPS,
    "LAS": np.diag([-1.0, 1, 1, 1]),
    "RAS": np.eye(4),
    "PIR": np.array([[0, 0, 1, 3], [-1, 0, 0, 9], [0, -1, 0, 2], [0, 0, 0, 1]], float),
    "anisotropic and oblique": ANISOTROPIC,
}


def prepare(root, cache, spacing=1.0):
    return prepare_cases(find_cases(root), cache, spacing, progress=False)


def test_a_prepared_case_is_cropped_normalised_and_filled(tmp_path, write_case):
    write_case(tmp_path / "data", 3)
    (case,) = prepare(tmp_path / "data", tmp_path / "cache")
    images, label = make_volumes(3)
    brain = np.any([array != 0 for array in images.values()], axis=0)
    assert case.image.dtype == np.float16
    assert isinstance(case.image, np.memmap)
    where = np.argwhere(brain)
    assert case.shape == tuple(where.max(0) - where.min(0) + 1)
    image = np.asarray(case.image, np.float32)
    inside = case.geometry.crop(brain)
    assert (image[:, ~inside] == BACKGROUND).all()
    np.testing.assert_allclose([m[inside].mean() for m in image], 0, atol=2e-3)
    np.testing.assert_allclose([m[inside].std() for m in image], 1, atol=2e-3)
    np.testing.assert_array_equal(case.label != 0, case.geometry.crop(label) != 0)
    assert case.mask().shape == (3, *case.shape)
    assert case.brain_ml == pytest.approx(brain.sum() / 1000)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_the_histogram_gives_what_the_plain_formula_gives(dtype):
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(120, 40, (20, 21, 22)), 0, 255).astype(dtype)
    values[:5] = 0
    brain = values != 0
    expected = values[brain].astype(np.float64)
    clipped = np.clip(expected, *np.percentile(expected, [0.5, 99.5]))
    scores = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(normalise(values, brain)[brain], scores, atol=2e-3)
    np.testing.assert_allclose(
        normalise(values.astype(np.float32), brain)[brain], scores, atol=2e-3
    )


def test_outliers_do_not_move_the_brain():
    rng = np.random.default_rng(0)
    values = rng.normal(500, 50, (40, 40, 40)).astype(np.int16)
    brain = np.ones(values.shape, bool)
    spoiled = values.copy()
    spoiled[0, 0, :40] = 32767
    clean, robust = normalise(values, brain), normalise(spoiled, brain)
    assert np.abs(clean[1:].astype(float) - robust[1:]).max() < 0.05
    assert robust.max() < 4


@pytest.mark.parametrize("name", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [1.0, 1.7])
def test_the_way_back_is_exact_in_position(tmp_path, write_case, name, spacing):
    affine = ORIENTATIONS[name]
    write_case(tmp_path / "data", 3, affine=affine)
    (case,) = prepare(tmp_path / "data", tmp_path / "cache", spacing)
    # A field that is linear in mm survives linear interpolation wherever the edge is not near.
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in case.native_shape], indexing="ij"), -1)
    field = (ijk @ affine[:3, :3].T + affine[:3, 3]) @ np.array([0.3, -0.5, 0.2])
    boxed = case.geometry.resample(case.geometry.crop(field))
    assert boxed.shape == case.shape
    back = case.to_native(boxed[None])[0]
    assert back.shape == case.native_shape
    inner = np.zeros(case.native_shape, bool)
    case.geometry.crop(inner)[6:-6, 6:-6, 6:-6] = True
    assert inner.any()
    np.testing.assert_allclose(back[inner], field[inner], atol=2e-3)
    outside = np.ones(case.native_shape, bool)
    case.geometry.crop(outside)[...] = False
    assert not back[outside].any()


@pytest.mark.parametrize("name", ["LPS", "LAS", "RAS", "PIR"])
def test_without_resampling_labels_return_to_the_last_voxel(tmp_path, write_case, name):
    write_case(tmp_path / "data", 3, affine=ORIENTATIONS[name])
    (case,) = prepare(tmp_path / "data", tmp_path / "cache")
    np.testing.assert_array_equal(case.to_native(case.mask()) > 0.5, case.native_regions())


def test_files_are_written_on_the_bits_of_the_input_affine(tmp_path, write_case):
    rotation = np.array([[0.98, 0.1987, 0, 1], [-0.1987, 0.98, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    write_case(tmp_path / "data", 3, affine=rotation)
    (case,) = prepare(tmp_path / "data", tmp_path / "cache")
    source = nib.load(case.files.images["t1"].path)
    for name in ("a.nii", "sub/b.nii.gz"):
        case.save_native(case.native_regions()[0], tmp_path / name, np.uint8)
        written = nib.load(tmp_path / name)
        assert written.affine.tobytes() == source.affine.tobytes()
        assert written.header["qform_code"] == source.header["qform_code"]
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), case.native_regions()[0])
    assert not list(tmp_path.glob("**/.*tmp*"))


def test_resampling_keeps_thin_regions_by_partial_volume_and_does_not_alias(tmp_path, write_case):
    write_case(tmp_path / "data", 3)
    (fine,) = prepare(tmp_path / "data", tmp_path / "cache", 1.0)
    (coarse,) = prepare(tmp_path / "data", tmp_path / "cache", 2.0)
    assert coarse.spacing == (2.0, 2.0, 2.0)
    assert coarse.shape == tuple(-(-n // 2) for n in fine.shape)
    for region in range(2):
        ml_fine, ml_coarse = fine.mask()[region].sum(), 8 * coarse.mask()[region].sum()
        assert ml_coarse == pytest.approx(ml_fine, rel=0.15)
    stripes = np.indices(SHAPE)[0] % 2 * 2.0 - 1
    geometry = Geometry(SHAPE, ((0, 1), (1, 1), (2, 1)), (0,) * 3, SHAPE, (1.0,) * 3, (2.0,) * 3)
    assert np.abs(geometry.resample(stripes)[1:-1]).max() < 0.01


@pytest.mark.parametrize("edge", [1.001, 0.999, 1.0])  # float32 in a header
def test_a_spacing_that_nearly_is_the_prepared_one_goes_back_as_it_came(edge):
    edges = (float(np.float32(edge)),) * 3
    geometry = Geometry(SHAPE, ((0, 1), (1, 1), (2, 1)), (0,) * 3, SHAPE, edges, (1.0,) * 3)
    prepared = geometry.resample(np.ones(SHAPE, np.float32))
    assert prepared.shape == geometry.shape
    assert geometry.to_native(prepared[None]).shape == (1, *SHAPE)


def test_unchanged_files_are_not_read_again_and_changed_ones_are(tmp_path, write_case, monkeypatch):
    folder = write_case(tmp_path / "data", 3)
    (first,) = prepare(tmp_path / "data", tmp_path / "cache")
    reads = []
    from datamodules.cases import cache

    real = cache.examine
    monkeypatch.setattr(
        cache, "examine", lambda case, **how: reads.append(case) or real(case, **how)
    )
    (again,) = prepare(tmp_path / "data", tmp_path / "cache")
    assert (again.folder, reads) == (first.folder, [])
    label = folder / "BraTS2021_00003_seg.nii.gz"
    save(np.roll(make_volumes(3)[1], 1, 0), label)
    (changed,) = prepare(tmp_path / "data", tmp_path / "cache")
    assert len(reads) == 1
    assert changed.folder != first.folder
    assert changed.content_hash == first.content_hash
    assert changed.label_hash != first.label_hash


def test_a_cut_off_preparation_leaves_nothing_that_is_used(tmp_path, write_case, monkeypatch):
    write_case(tmp_path / "data", 3)
    from datamodules.cases import cache

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "region_samples", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "data", tmp_path / "cache")
    assert list((tmp_path / "cache" / "cases").iterdir()) == []
    (case,) = prepare(tmp_path / "data", tmp_path / "cache")
    assert case.image.shape == (4, *case.shape)


def _prepare_in_process(arguments):
    root, cache = arguments
    return [str(case.folder) for case in prepare(root, cache)]


def test_two_processes_prepare_one_cohort_at_once(tmp_path, cohort):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.map(_prepare_in_process, [(cohort, tmp_path / "cache")] * 2)
    assert one == other
    assert sorted(os.listdir(tmp_path / "cache" / "cases")) == sorted(
        path.rsplit("/", 1)[1] for path in one
    )


def test_good_cases_are_finished_and_bad_ones_listed(tmp_path, cohort, write_case):
    (cohort / "BraTS2021_00002" / "BraTS2021_00002_t1.nii.gz").unlink()
    write_case(cohort, 9, seed=4)
    prepared, problems = prepare_cohort(find_cases(cohort), tmp_path / "c", 1.0, progress=False)
    assert sorted(problems) == ["BraTS2021_00002", "BraTS2021_00004", "BraTS2021_00009"]
    assert len(prepared) == 4
    with pytest.raises(InputError, match="3 of 7 cases") as error:
        prepare(cohort, tmp_path / "c")
    assert len(str(error.value).splitlines()) == 4


@pytest.mark.parametrize("spacing", [0.0, -1.0, 50.0])
def test_a_spacing_without_sense_is_refused(tmp_path, cohort, spacing):
    with pytest.raises(InputError, match="spacing"):
        prepare(cohort, tmp_path / "c", spacing)


def test_msd_channels_are_taken_in_order(tmp_path, write_case):
    images, label = make_volumes(3, enhancing=3)
    stack = np.stack([images[m] for m in ("flair", "t1", "t1ce", "t2")], -1).astype(np.float32)
    save(stack, tmp_path / "msd/imagesTr/BRATS_001.nii.gz")
    swapped = np.array([0, 2, 1, 3], np.uint8)[label]
    save(swapped, tmp_path / "msd/labelsTr/BRATS_001.nii.gz")
    write_case(tmp_path / "data", 3)
    (msd,) = prepare(tmp_path / "msd", tmp_path / "cache")
    (brats,) = prepare(tmp_path / "data", tmp_path / "cache")
    assert msd.content_hash == brats.content_hash
    assert msd.native_shape == SHAPE
    np.testing.assert_allclose(msd.image, brats.image, atol=2e-3)
    np.testing.assert_array_equal(msd.label, brats.label)
    for modality in MODALITIES:
        np.testing.assert_array_equal(msd.native_image(modality), brats.native_image(modality))


def test_geometry_survives_json():
    geometry = Geometry(
        (3, 4, 5), ((1, 1), (0, -1), (2, 1)), (0, 1, 0), (3, 2, 5), (1.0,) * 3, (2.0,) * 3
    )
    assert Geometry.from_dict(json.loads(json.dumps(asdict(geometry)))) == geometry


def test_real_cases_are_prepared_and_return(tmp_path, real_data):
    cases = prepare(real_data / "brats2021", tmp_path / "cache")
    assert {case.case_id[-5:] for case in cases} >= {"00006", "01477", "01482"}
    for case in cases:
        image = np.asarray(case.image, np.float32)
        brain = (image != 0).any(0)
        assert case.native_shape == (240, 240, 155)
        assert case.brain_ml == pytest.approx(1500, abs=250)
        assert np.abs([m[brain].mean() for m in image]).max() < 0.05
        assert np.abs([m[brain].std() - 1 for m in image]).max() < 0.05
        assert np.abs(image).max() < 8
        np.testing.assert_array_equal(case.to_native(case.mask()) > 0.5, case.native_regions())


def test_a_cache_can_be_read_by_every_user_and_written_by_those_who_may(tmp_path, cohort):
    before = os.umask(0o022)
    try:
        cases, _ = prepare_cohort(find_cases(cohort), tmp_path / "cache", 2.0, progress=False)
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        expected = 0o755 if path.is_dir() else 0o666 if path.suffix == ".lock" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert cases


def test_what_is_complete_is_read_without_a_lock_and_what_is_not_is_refused(
    tmp_path, cohort, monkeypatch
):
    cases = find_cases(cohort)
    prepare_cohort(cases[:3], tmp_path / "cache", 2.0, progress=False)

    def denied(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("datamodules.cases.cache.shared_lock", denied)
    prepared, problems = prepare_cohort(cases[:3], tmp_path / "cache", 2.0, progress=False)
    assert (len(prepared), problems) == (3, {})
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied: .*give another"):
        prepare_cohort(cases, tmp_path / "cache", 2.0, progress=False)
    folder = tmp_path / "cache" / "phantoms" / "v7"
    with exclusively(folder) as done:
        assert not done.exists()
    with pytest.raises(InputError, match="cannot be written"), exclusively(folder):
        denied(folder)
