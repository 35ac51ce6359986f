"""Patients stored in unusual ways: read correctly, or refused with advice that works."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from datamodules.cases.cache import prepare_cases, prepare_cohort
from datamodules.cases.checks import examine
from datamodules.layouts.case_files import MODALITIES, ImageFile
from datamodules.patients.find import find_cases, single_case
from datamodules.patients.left_out import left_out
from datamodules.volumes.datamodule import BraTSPatchDataModule
from errors import InputError
from studies.commands.check import main
from tests.datamodules.tiny_patients import LPS, SHAPE, make_volumes, save

IMAGES, LABEL = make_volumes(1)
CASE = "BraTS2021_00001"


def write(root, images=IMAGES, label=LABEL, affine=LPS, case_id=CASE):
    for kind, array in {**images, "seg": label}.items():
        save(array, root / case_id / f"{case_id}_{kind}.nii.gz", affine)
    return root / case_id


def file(root, kind):
    return root / CASE / f"{CASE}_{kind}.nii.gz"


def reading(root):
    (case,) = find_cases(root)
    return examine(case)


def z_scored(array):
    values = array.astype(np.float32)
    return (values - values.mean()) / values.std()


def z_scored_brain(array):
    brain = array != 0
    values = array.astype(np.float32)
    return np.where(brain, (values - values[brain].mean()) / values[brain].std(), np.float32(0))


@pytest.mark.parametrize(
    ("change", "notice"),
    [
        (z_scored, "the background is -0."),
        (z_scored_brain, ""),
        (lambda a: a + 7, "the background is 7 in t1"),
        (lambda a: (a / a.max() * 2 - 1).astype(np.float32), "the background is -1 in t1"),
    ],
)
def test_a_constant_background_is_outside_the_brain_whatever_its_value(tmp_path, change, notice):
    write(tmp_path / "plain")
    write(tmp_path / "other", {m: change(a) for m, a in IMAGES.items()})
    cases = [find_cases(tmp_path / name)[0] for name in ("plain", "other")]
    plain, other = (prepare_cases([case], tmp_path / "c", 1.0, progress=False)[0] for case in cases)
    assert notice in "; ".join(other.notices)
    assert other.brain_ml == plain.brain_ml
    np.testing.assert_allclose(
        np.asarray(other.image, np.float32), np.asarray(plain.image, np.float32), atol=0.01
    )


def test_a_piece_cut_out_of_the_brain_is_no_head(tmp_path):
    images, label = make_volumes(1, (60, 64, 60))
    inside = (slice(20, 44),) * 3
    write(tmp_path, {m: a[inside] for m, a in images.items()}, label[inside])
    found = reading(tmp_path)
    assert found.problems == []
    assert any("cut out of the brain" in notice for notice in found.notices)


def test_a_brain_cropped_to_its_box_needs_no_word(tmp_path):
    where = np.argwhere(IMAGES["t1"] != 0)
    box = tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
    write(tmp_path, {m: a[box] for m, a in IMAGES.items()}, LABEL[box])
    found = reading(tmp_path)
    assert (found.problems, found.notices) == ([], [])


def test_a_head_with_its_air_masked_shows_by_its_volume(tmp_path):
    big = np.diag([9.0, 9.0, 9.0, 1.0])  # what is not background measures 3 litres
    write(tmp_path, affine=big)
    assert "shows a whole head" in "; ".join(reading(tmp_path).problems)


@pytest.mark.parametrize("kind", ["t1", "t2", "seg"])
@pytest.mark.parametrize("order", ["RAS", "SAL", "PIR"])
def test_another_order_of_voxels_at_the_same_place_is_turned_back(tmp_path, kind, order):
    write(tmp_path / "plain")
    write(tmp_path / "turned")
    path = file(tmp_path / "turned", kind)
    image = nib.load(path)
    to = nib.orientations.axcodes2ornt(order)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), to)
    nib.save(image.as_reoriented(turn), path)
    plain, turned = (
        prepare_cases(find_cases(tmp_path / name), tmp_path / "c", 1.0, progress=False)[0]
        for name in ("plain", "turned")
    )
    np.testing.assert_array_equal(np.asarray(turned.image), np.asarray(plain.image))
    np.testing.assert_array_equal(np.asarray(turned.label), np.asarray(plain.label))
    assert turned.content_hash == plain.content_hash
    assert any("stored" in notice for notice in turned.notices)
    native = turned.native_regions()
    np.testing.assert_array_equal(turned.to_native(turned.mask()) > 0.5, native)
    assert turned.native_image(MODALITIES[2]).shape == native.shape[1:]
    middle = np.corrcoef(turned.native_image("t1").ravel(), turned.native_image("t2").ravel())
    assert middle[0, 1] > 0.9  # the same brain, voxel by voxel


def copied(images, change):
    return {**images, "t1ce": change(images["t1"])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a, "t1 and t1ce hold the same image: give"),
        (lambda a: a.astype(np.float64), "t1 and t1ce hold the same image: give"),
        (lambda a: (a / a.max() * 255).astype(np.uint8), "the same image in another scaling"),
    ],
)
def test_one_image_given_for_two_modalities_is_found(tmp_path, change, words):
    write(tmp_path, copied(IMAGES, change))
    assert words in "; ".join(reading(tmp_path).problems)
    save(IMAGES["t1ce"], file(tmp_path, "t1ce"))  # as advised
    found = reading(tmp_path)
    assert found.problems == []
    assert len(set(found.modality_hashes.values())) == 4


def test_the_cache_keeps_the_digests_and_looks_again_at_what_it_knew_before(tmp_path, monkeypatch):
    write(tmp_path / "data", copied(IMAGES, np.copy))
    cases = find_cases(tmp_path / "data")
    with monkeypatch.context() as before:  # as a version prepared it that did not look
        before.setattr("datamodules.cases.checks.same_images", lambda *_: [])
        before.setattr("datamodules.cases.cache.EXAMINATION_VERSION", 1)
        prepared, problems = prepare_cohort(cases, tmp_path / "c", 1.0, progress=False)
    assert (len(prepared), problems) == (1, {})
    assert set(prepared[0].described["modalities"]) == set(MODALITIES)
    _, problems = prepare_cohort(cases, tmp_path / "c", 1.0, progress=False)
    assert "hold the same image" in problems[CASE]


def test_a_missing_modality_filled_with_zero_equals_no_other(tmp_path):
    write(tmp_path)
    for kind in ("t1", "t1ce"):
        file(tmp_path, kind).unlink()
    (case,) = find_cases(tmp_path)
    assert examine(case, missing="zero").problems == []


def test_a_label_that_is_the_image_is_found(tmp_path):
    write(tmp_path, label=IMAGES["t1"])
    assert "different values, as an image does" in "; ".join(reading(tmp_path).problems)
    file(tmp_path, "seg").unlink()
    file(tmp_path, "seg").symlink_to(file(tmp_path, "t1"))
    assert "the label and t1 are one file" in "; ".join(reading(tmp_path).problems)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a * np.float32(1.00002), ""),
        (lambda a: a.astype(np.float64), ""),
        (lambda a: a[..., None], ""),
        (lambda a: a * np.float32(1.01), "(2.02 at voxel (7, 13, 10))"),
        (lambda a: np.where(a == 4, 300, a.astype(np.int16)), "holds 300"),
        (lambda a: np.where(a == 4, -1, a.astype(np.int16)), "holds -1"),
        (lambda a: np.where(a == 4, -1, a.astype(np.float32)), "holds -1"),
        (lambda a: np.where(a == 4, np.nan, a.astype(np.float32)), "NaN or Inf (voxel ("),
    ],
)
def test_labels_are_whole_numbers_to_a_thousandth(tmp_path, change, words):
    write(tmp_path, label=change(LABEL))
    found = reading(tmp_path)
    assert words in "; ".join(found.problems)
    assert bool(words) == bool(found.problems)
    if not words:
        np.testing.assert_array_equal(found.label, LABEL)


def header_of_t1(root):
    good = nib.load(file(root, "t1"))
    image = nib.load(file(root, "t2"))
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), good.affine), file(root, "t2"))


def lose_position(root):
    image = nib.Nifti1Image(IMAGES["t2"], None)
    image.header.set_zooms((1, 1, 1))
    nib.save(image, file(root, "t2"))


SHEARED = LPS.copy()
SHEARED[0, 2] = 0.5
ADVICE = {
    "NaN outside": (
        lambda root: save(np.where(IMAGES["t2"] == 0, np.nan, IMAGES["t2"]), file(root, "t2")),
        "set them to 0",
        lambda root: save(np.nan_to_num(nib.load(file(root, "t2")).get_fdata()), file(root, "t2")),
    ),
    "no position": (lose_position, "copy it from t1", header_of_t1),
    "air": (
        lambda root: save(IMAGES["t2"] + 1 + np.arange(SHAPE[2], dtype="i2"), file(root, "t2")),
        "skull-stripper",
        lambda root: save(IMAGES["t2"], file(root, "t2")),
    ),
    "single slice": (
        lambda root: write(root, {m: a[..., 9:10] for m, a in IMAGES.items()}, LABEL[..., 9:10]),
        "expected a volume of the whole brain",
        write,
    ),
    "sheared": (
        lambda root: write(root, affine=SHEARED),
        "resample it to a straight grid",
        write,
    ),
    "metres": (
        lambda root: write(root, affine=np.diag([0.001, 0.001, 0.001, 1]) @ LPS),
        "correct the voxel size",
        write,
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_advice_that_is_followed_is_accepted(tmp_path, name):
    spoil, advice, follow = ADVICE[name]
    write(tmp_path)
    spoil(tmp_path)
    assert advice in "; ".join(reading(tmp_path).problems)
    follow(tmp_path)
    assert reading(tmp_path).problems == []


def test_check_names_the_images_of_no_case_and_takes_any_name(tmp_path, capsys):
    write(tmp_path)
    write(tmp_path / "[red]x\nb", case_id="BraTS2021_00002", images=make_volumes(2)[0])
    for number in range(7):
        save(IMAGES["t1"], tmp_path / f"Patient {number}" / "T1.nii.gz")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "t2.nrrd").touch()
    assert main(["--data.root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "7 NIfTI files belong to no case and are left out: Patient 0/T1.nii.gz" in printed
    assert "and 2 more" in printed
    assert "1 image is no NIfTI and is left out" in printed
    assert "more/t2.nrrd" in printed
    shutil.rmtree(tmp_path / "more")
    for number in range(7):
        shutil.rmtree(tmp_path / f"Patient {number}")
    assert left_out(tmp_path, find_cases(tmp_path)) == []


def test_a_folder_of_another_format_says_how_to_convert(tmp_path):
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(InputError, match="DICOM files, no NIfTI: convert them with dcm2niix"):
        find_cases(tmp_path)
    (tmp_path / "IM0001").rename(tmp_path / "a.mha")
    with pytest.raises(InputError, match=r"1 \.mha files, no NIfTI"):
        find_cases(tmp_path)


def test_names_in_capitals_are_found(tmp_path):
    folder = write(tmp_path)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace(".nii.gz", ".NII.GZ"))
    assert reading(tmp_path).problems == []
    assert find_cases(tmp_path)[0].prediction_name == f"{CASE}_seg.nii.gz"


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr("os.scandir", _refusing(tmp_path / CASE))
    with pytest.raises(InputError, match=f"{CASE} cannot be read"):
        find_cases(tmp_path)


def _refusing(folder):
    import os

    real = os.scandir

    def scan(path):
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    return scan


def test_one_file_or_channel_given_for_two_modalities_is_found(tmp_path):
    write(tmp_path)
    files = {m: file(tmp_path, "t1" if m == "t1ce" else m) for m in MODALITIES}
    assert "t1 and t1ce hold the same image" in "; ".join(examine(single_case(files)).problems)
    save(np.stack([IMAGES[m] for m in MODALITIES], -1), tmp_path / "all.nii.gz")
    channels = {"t1": 0, "t1ce": 1, "t2": 2, "flair": 2}
    (case,) = find_cases(tmp_path)
    images = {m: ImageFile(tmp_path / "all.nii.gz", channel) for m, channel in channels.items()}
    problems = examine(replace(case, images=images)).problems
    assert problems == ["t2 and flair hold the same image: give each modality its own file"]


def test_fit_names_the_images_of_no_case(tmp_path):
    write(tmp_path / "data")
    save(IMAGES["t1"], tmp_path / "data" / "Patient 2" / "T1.nii.gz")
    data = BraTSPatchDataModule(root=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert list(data.cases) == [CASE]
    assert "1 NIfTI file belongs to no case and is left out: Patient 2/T1.nii.gz" in data.notices


def test_two_files_of_one_channel_or_label_are_not_chosen_between(tmp_path):
    for name in ("imagesTr/a_0000.nii.gz", "imagesTr/a_0000.nii", "labelsTr/a.nii"):
        save(IMAGES["t1"], tmp_path / name)
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}, "labels": '
        '{"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}}'
    )
    with pytest.raises(InputError, match=r"a_0000 has two files"):
        find_cases(tmp_path)
    (tmp_path / "imagesTr/a_0000.nii").unlink()
    (case,) = find_cases(tmp_path)
    assert case.label == tmp_path / "labelsTr" / "a.nii"  # compressed otherwise than the image
    save(LABEL, tmp_path / "labelsTr/a.nii.gz")
    with pytest.raises(InputError, match=r"a has two files"):
        find_cases(tmp_path)
