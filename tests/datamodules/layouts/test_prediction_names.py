"""The file names that a layout may give to predicted masks."""

import pytest
import yaml

from datamodules.layouts.prediction_names import check_name, pattern_fault
from datamodules.patients.find import find_cases
from errors import InputError

IMAGES = {
    "t1": "{case}/{case}_T1.nii.gz",
    "t1ce": "{case}/{case}_T1c.nii.gz",
    "t2": "{case}/{case}_T2.nii.gz",
    "flair": {"file": "{case}/{case}_all.nii.gz", "channel": 3},
}


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [
        ("seg.nii.gz", "has no {case}, so that all patients would share one file"),
        ("../{case}_seg.nii.gz", "leads out of the folder of predictions"),
        ("{case}/../../{case}_seg.nii.gz", "leads out of the folder"),
        ("/data/{case}_seg.nii.gz", "leads out of the folder"),
        ("~/{case}_seg.nii.gz", "leads out of the folder"),
        ("C:/{case}_seg.nii.gz", "leads out of the folder"),
        ("{case}_seg.mha", "ends neither in .nii nor in .nii.gz"),
        ("{case}_seg.NII.GZ", "ends neither in .nii nor in .nii.gz"),
        ("{case}", "ends neither in .nii nor in .nii.gz"),
        ("{case}/.nii.gz", "ends neither in .nii nor in .nii.gz"),
        ("{case}/", "ends neither"),
        ("", "is empty"),
        (" ", "is empty"),
        (None, "is no text"),
        (["{case}_seg.nii.gz"], "is no text"),
        ("{patient}_{case}.nii.gz", "has a placeholder other than {case}"),
        ("{case_seg.nii.gz", "has no {case}"),
        ("{case}_*.nii.gz", "holds characters that no file name should have"),
        ("{case}\\seg.nii.gz", "holds characters that no file name should have"),
        (".{case}_seg.nii.gz", "is that of a hidden file"),
        ("{case}/{case}_T1.nii.gz", "is that of an image"),
        ("{case}/./{case}_t1.nii.gz", "is that of an image"),
        ("{case}/{case}_all.nii.gz", "is that of an image"),
    ],
)
def test_a_pattern_that_names_no_mask_of_its_own_is_refused_when_the_layout_is_read(
    tmp_path, pattern, wrong
):
    for case in ("p0", "p1"):
        for name in ("T1", "T1c", "T2", "all"):
            file = tmp_path / "cohort" / case / f"{case}_{name}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    labels = {"necrosis": 1, "oedema": 2, "enhancing": 4}
    layout = {"images": IMAGES, "labels": labels, "prediction": pattern}
    (tmp_path / "ward.yaml").write_text(yaml.safe_dump(layout))
    with pytest.raises(InputError) as refused:
        find_cases(tmp_path / "cohort", tmp_path / "ward.yaml")
    assert wrong in str(refused.value)
    assert str(refused.value).endswith('expected a name such as "{case}_seg.nii.gz".')
    example = {**layout, "prediction": "{case}_seg.nii.gz"}  # the advice
    (tmp_path / "ward.yaml").write_text(yaml.safe_dump(example))
    cases = find_cases(tmp_path / "cohort", tmp_path / "ward.yaml")
    assert [case.prediction_name for case in cases] == ["p0_seg.nii.gz", "p1_seg.nii.gz"]


@pytest.mark.parametrize("pattern", ["{case}.nii", "{case}/{case} auto.nii.gz", "a/{case}.nii.gz"])
def test_other_names_are_taken(pattern):
    assert pattern_fault(pattern, ["{case}/{case}_T1.nii.gz"]) == ""
    name = pattern.replace("{case}", "p 1")
    assert check_name(name, "p 1", "ward") == name


@pytest.mark.parametrize("name", ["../x.nii.gz", "x.mha", "/x.nii", "", "x.NII.GZ", ".x.nii"])
def test_a_name_of_any_layout_is_checked_before_it_is_written(name):
    with pytest.raises(InputError, match=r"the prediction of p1 would be called .* by the l"):
        check_name(name, "p1", "l")
