import gzip

import nibabel as nib
import numpy as np
import pytest

from datamodules.cases.checks import examine
from datamodules.layouts.conventions import BRATS_3, BRATS_4, MSD
from datamodules.layouts.label_values import contradicts
from datamodules.patients.find import find_cases
from errors import InputError
from studies.commands.check import main
from tests.datamodules.tiny_patients import LPS, SHAPE, make_volumes, save


def rewrite(path, change, affine=LPS):
    save(change(np.asanyarray(nib.load(path).dataobj).copy()), path, affine)


def with_value(value, dtype=np.float32):
    def change(array):
        array = array.astype(dtype)
        array[tuple(n // 2 for n in SHAPE)] = value
        return array

    return change


def with_air(array):
    """The noise of the air that a skull-stripper removes."""
    return array + np.random.default_rng(0).integers(1, 20, array.shape).astype(array.dtype)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def cut_inside(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))


T2, SEG = "t2", "seg"
DEFECTS = {
    "missing modality": (T2, lambda p: p.unlink(), "modality t2 is missing"),
    "shape": (T2, lambda p: rewrite(p, lambda a: a[:-1]), "shape"),
    "affine": (T2, lambda p: rewrite(p, lambda a: a, LPS + np.eye(4)[:, [3, 0, 1, 2]]), "mm apart"),
    "nan": (T2, lambda p: rewrite(p, with_value(np.nan)), "NaN or Inf"),
    "inf": (T2, lambda p: rewrite(p, with_value(np.inf)), "NaN or Inf"),
    "truncated gzip": (T2, truncate, "truncated or damaged gzip"),
    "truncated voxels": (T2, cut_inside, "truncated"),
    "not nifti": (T2, lambda p: p.write_bytes(b"hello"), "not a NIfTI"),
    "4-D": (T2, lambda p: rewrite(p, lambda a: np.stack([a, a], -1)), "4-D"),
    "empty": (T2, lambda p: rewrite(p, np.zeros_like), "empty"),
    "whole head": (T2, lambda p: rewrite(p, with_air), "HD-BET"),
    "label value": (SEG, lambda p: rewrite(p, with_value(9, np.uint8)), "holds 9"),
    "other year": (SEG, lambda p: rewrite(p, with_value(3, np.uint8)), "holds 3"),
    "fraction": (SEG, lambda p: rewrite(p, with_value(1.5)), "1.5"),
    "label shape": (SEG, lambda p: rewrite(p, lambda a: a[:, :-1]), "shape"),
    "label nan": (SEG, lambda p: rewrite(p, with_value(np.nan)), "NaN"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_found(tmp_path, write_case, name):
    suffix, break_it, message = DEFECTS[name]
    folder = write_case(tmp_path, 1)
    break_it(folder / f"BraTS2021_00001_{suffix}.nii.gz")
    (case,) = find_cases(tmp_path)
    problems = "; ".join(examine(case).problems)
    assert message in problems
    assert "\n" not in problems


def test_float_labels_that_are_integers_and_singleton_axes_are_accepted(tmp_path, write_case):
    folder = write_case(tmp_path, 1)
    rewrite(folder / "BraTS2021_00001_seg.nii.gz", lambda a: a.astype(np.float64))
    rewrite(folder / "BraTS2021_00001_t1.nii.gz", lambda a: a[..., None])
    (case,) = find_cases(tmp_path)
    reading = examine(case)
    assert reading.problems == []
    assert reading.label is not None
    assert set(np.unique(reading.label)) == {0, 1, 2, 4}


def test_content_hash_knows_a_patient_under_another_name(tmp_path, write_case):
    write_case(tmp_path / "a", 1, seed=5)
    (original,) = find_cases(tmp_path / "a")
    images, label = make_volumes(5)
    las = LPS @ np.diag([1, -1, 1, 1])
    las[1, 3] = LPS[1, 3] + LPS[1, 1] * (SHAPE[1] - 1)
    for modality, array in images.items():
        # Another name, type, compression and orientation; a margin of zeros more.
        padded = np.pad(array[:, ::-1], ((0, 0), (0, 0), (0, 3)))
        save(padded.astype(np.float32), tmp_path / f"b/Brats18_X_1_{modality}.nii", las)
    (other,) = find_cases(tmp_path / "b")
    assert examine(original).content_hash() == examine(other).content_hash()
    write_case(tmp_path / "c", 1, seed=6)
    (different,) = find_cases(tmp_path / "c")
    assert examine(original).content_hash() != examine(different).content_hash()
    assert label.any()


@pytest.mark.parametrize(
    ("convention", "values", "message"),
    [
        (BRATS_4, {1, 2, 4}, ""),
        (BRATS_4, {1, 2}, ""),
        (BRATS_4, {1, 2, 3}, "brats2023"),
        (BRATS_3, {1, 2, 3}, ""),
        (BRATS_3, {1, 2, 3, 4}, ""),
        (BRATS_3, {1, 2, 4}, "brats2024"),
        (MSD, {1, 2, 4}, "holds 4"),
    ],
)
def test_values_that_contradict_the_layout(convention, values, message):
    found = contradicts(convention, values)
    assert message in found
    assert bool(message) == bool(found)


def test_the_cavity_is_counted_and_reported(tmp_path):
    images, label = make_volumes(1, enhancing=3)
    label[5:8, 14:16, 10:12] = 4
    new = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
    for modality, array in images.items():
        save(array, tmp_path / f"BraTS-GLI-00001-100-{new[modality]}.nii.gz")
    save(label, tmp_path / "BraTS-GLI-00001-100-seg.nii.gz")
    (case,) = find_cases(tmp_path)
    reading = examine(case)
    assert reading.problems == []
    assert any("resection cavity" in notice for notice in reading.notices)


def test_check_lists_every_bad_case_once_and_exits_1(cohort, write_case, capsys):
    assert main(["--data.root", str(cohort)]) == 0
    assert "6 cases" in capsys.readouterr().out
    (cohort / "BraTS2021_00002" / "BraTS2021_00002_t1.nii.gz").unlink()
    truncate(cohort / "BraTS2021_00003" / "BraTS2021_00003_flair.nii.gz")
    write_case(cohort, 77, seed=5)
    assert main(["--data.root", str(cohort)]) == 1
    out = capsys.readouterr().out
    for case_id, what in (
        ("BraTS2021_00002", "t1 is missing"),
        ("BraTS2021_00003", "gzip"),
        ("BraTS2021_00005", "same images as BraTS2021_00077"),
        ("BraTS2021_00077", "same images as BraTS2021_00005"),
    ):
        (line,) = [line for line in out.splitlines() if f" {case_id} " in line and "bad" in line]
        assert what in line
    assert "4 of them bad" in out


NEW = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}


def write_new(root, name, count, change):
    """Cases named as since 2023, whose label 1, 2, 3 is changed by a table of values."""
    for seed in range(count):
        images, label = make_volumes(seed, enhancing=3)
        case_id = f"{name}-{seed:05d}-000"
        for modality, array in images.items():
            save(array, root / f"{case_id}-{NEW[modality]}.nii.gz")
        save(np.array(change, np.uint8)[label], root / f"{case_id}-seg.nii.gz")


def check(capsys, root, *words):
    code = main(["--data.root", str(root), *map(str, words)])
    return code, capsys.readouterr().out


def test_check_prints_what_pediatric_labels_are_read_as(tmp_path, capsys):
    write_new(tmp_path, "BraTS-PED", 2, [0, 2, 4, 1])
    code, printed = check(capsys, tmp_path)
    assert code == 0
    assert "labels read as brats-ped (necrosis 2 3, oedema 4, enhancing 1)" in printed
    with pytest.raises(InputError, match="is named as brats-ped"):
        main(["--data.root", str(tmp_path), "--data.layout", "brats2023"])


def test_pediatric_labels_of_2023_are_asked_for_and_the_advice_works(tmp_path, capsys):
    write_new(tmp_path, "BraTS-PED", 2, [0, 1, 2, 3])
    code, printed = check(capsys, tmp_path)
    assert code == 1
    assert "give data.labels as brats2023-ped (" in printed
    code, printed = check(capsys, tmp_path, "--data.labels", "brats2023-ped")
    assert code == 0
    assert "labels read as brats2023-ped (necrosis 1, oedema 2, enhancing 3)" in printed


def relabel(cohort, change):
    for path in cohort.rglob("*_seg.nii.gz"):
        rewrite(path, change)


def test_a_copy_with_other_values_is_told_and_the_advice_works(cohort, capsys):
    relabel(cohort, lambda array: np.where(array == 4, 3, array).astype(np.uint8))
    code, printed = check(capsys, cohort)
    assert code == 1
    assert "(they fit brats2023 (necrosis 1, oedema 2, enhancing 3, background 4)" in printed
    assert "data.labels says which" in printed
    for name in ("brats2023", "msd"):
        code, printed = check(capsys, cohort, "--data.labels", name)
        assert (code, f"labels read as {name} (" in printed) == (0, True)


@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_the_whole_tumour_are_bad_until_they_are_called_so(
    cohort, tmp_path, capsys, value
):
    relabel(cohort, lambda array: ((array > 0) * value).astype(np.uint8))
    code, printed = check(capsys, cohort)
    assert code == 1
    assert f"YAML file with whole: {value}" in printed
    assert "6 of them bad" in printed
    (tmp_path / "whole.yaml").write_text(f"whole: {value}\n")
    code, printed = check(capsys, cohort, "--data.labels", tmp_path / "whole.yaml")
    assert (code, f"labels read as whole (whole tumour {value})" in printed) == (0, True)


def test_one_mask_of_the_whole_tumour_is_a_notice(cohort, capsys):
    rewrite(next(cohort.rglob("*00003_seg.nii.gz")), lambda array: (array > 0).astype(np.uint8))
    code, printed = check(capsys, cohort)
    assert code == 0
    (line,) = [line for line in printed.splitlines() if "BraTS2021_00003" in line]
    assert "notice" in line
    assert "only 1 (necrosis)" in line


def test_a_label_of_channels_is_no_label_map(cohort, capsys):
    path = next(cohort.rglob("*00003_seg.nii.gz"))
    rewrite(path, lambda array: np.stack([array == v for v in (1, 2, 4)], -1).astype(np.uint8))
    assert "not a channel for each region" in check(capsys, cohort)[1]


def test_real_cases_are_sound(real_data):
    for case in find_cases(real_data / "brats2021"):
        assert examine(case).problems == []
