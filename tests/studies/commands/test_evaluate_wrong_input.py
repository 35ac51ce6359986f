"""``lightning evaluate`` with damaged files, wrong options and full disks."""

import json
import struct

import nibabel as nib
import numpy as np
import pytest

from datamodules.layouts.conventions import BRATS_3
from studies.commands import evaluate as evaluating
from studies.scores.mask_scoring import Findings
from tests.studies.masks import (
    AFFINE,
    CASES,
    evaluate,
    make_folders,
    regions,
    rows_of,
    write,
)


@pytest.fixture
def folders(tmp_path):
    return make_folders(tmp_path)


def damage(path):
    path.write_bytes(path.read_bytes()[:-20])


def four_axes(path):
    write(path, np.stack([BRATS_3.from_regions(regions(1))] * 2, axis=-1))


def another_shape(path):
    write(path, BRATS_3.from_regions(regions(1))[1:])


def another_place(path):
    moved = AFFINE.copy()
    moved[0, 3] = 5.0
    write(path, BRATS_3.from_regions(regions(1)), moved)


def halves(path):
    write(path, BRATS_3.from_regions(regions(1)) * np.float32(0.5))


def rewritten(path, change):
    """Change the bytes of an image, without compression."""
    image = nib.load(path)
    path.write_bytes(change(nib.Nifti1Image(np.asarray(image.dataobj), image.affine).to_bytes()))


def cut_header(path):
    rewritten(path, lambda raw: raw[:200])


def negative_axis(path):
    rewritten(path, lambda raw: raw[:42] + struct.pack("<h", -20) + raw[44:])


def endless_offset(path):
    rewritten(path, lambda raw: raw[:108] + struct.pack("<f", float("inf")) + raw[112:])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage, "truncated or damaged"),
        (cut_header, "is not a NIfTI image"),
        (negative_axis, "its header says shape (-20, 18, 14)"),
        (endless_offset, "is not a NIfTI image"),
        (four_axes, "4-D (20, 18, 14, 2)"),
        (another_shape, "has the shape (19, 18, 14) and its reference (20, 18, 14)"),
        (another_place, "5.0 mm apart"),
        (halves, "values from 0 to 1.5, not all of them whole"),
    ],
)
def test_a_bad_file_in_the_middle_costs_only_its_own_scores(folders, capsys, harm, words):
    harm(folders / "predictions" / f"{CASES[1]}.nii.gz")
    assert evaluate(folders) == 1
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("bad"))
    assert CASES[1] in line
    assert words in line
    assert "1 of 3 cases are bad and not counted" in printed
    rows = rows_of(folders / "predictions" / "per_case.csv")
    assert [row["case_id"] for row in rows] == [CASES[0], CASES[2]]
    (bad,) = rows_of(folders / "predictions" / "unscored.csv")
    assert bad["case_id"] == CASES[1]
    assert words in bad["reason"]


def test_all_mistakes_are_told_at_once_and_nothing_is_scored(folders, capsys):
    damage(folders / "predictions" / f"{CASES[0]}.nii.gz")
    assert evaluate(folders, labels=()) == 2  # read as BraTS 2021, which has no 3
    captured = capsys.readouterr()
    assert "truncated or damaged" in captured.out
    for case_id in CASES[1:]:
        assert f"{case_id}.nii.gz: the label holds 3" in captured.err
    assert "--prediction_labels" in captured.err
    assert not (folders / "predictions" / "per_case.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rule", "median"), "brats, nan, monai, nnunet"),
        (("--regions", "WT,necrosis"), "WT,TC,ET"),
        (("--labels", "brats1999"), "--labels brats1999 is neither a file nor one of"),
        (("--references", "nowhere"), "--references nowhere is not a folder"),
        (("--out", "taken"), "--out taken cannot be written"),
        (("--workers", "0"), "expected 1 or more"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_read(
    folders, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(folders)
    (folders / "taken").touch()
    assert evaluate(folders, *words) == 2
    assert message in capsys.readouterr().err


def test_names_that_tell_no_meaning_or_no_case(tmp_path, capsys):
    for folder, name in (("predictions", "a.nii.gz"), ("references", "b.nii.gz")):
        write(tmp_path / folder / name, BRATS_3.from_regions(regions(1)))
    assert evaluate(tmp_path, labels=()) == 2
    assert "predictions are called a and the like, references b" in capsys.readouterr().err
    (tmp_path / "predictions" / "a.nii.gz").rename(tmp_path / "predictions" / "b.nii.gz")
    assert evaluate(tmp_path, labels=()) == 2
    assert "does not tell what its values mean: give --labels" in capsys.readouterr().err
    write(tmp_path / "predictions" / "b_seg.nii.gz", BRATS_3.from_regions(regions(1)))
    assert evaluate(tmp_path, "--labels", "brats2023", labels=()) == 2
    assert "b has two masks" in capsys.readouterr().err


def test_a_file_that_breaks_after_it_was_examined_costs_only_its_own_scores(
    folders, monkeypatch, capsys
):
    damage(folders / "predictions" / f"{CASES[1]}.nii.gz")
    monkeypatch.setattr("studies.scores.mask_scoring.examine_pair", lambda *_: Findings())
    assert evaluate(folders) == 1
    assert f"bad  {CASES[1]}" in capsys.readouterr().out
    assert len(rows_of(folders / "predictions" / "per_case.csv")) == 2


def test_a_full_disk_costs_the_file_and_not_the_numbers(folders, monkeypatch, capsys):
    def full(rows, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.tables.per_case.write_csv", full)
    assert evaluate(folders) == 2
    captured = capsys.readouterr()
    assert "3 cases" in captured.out
    assert "per_case.csv cannot be written (No space left on device)" in captured.err


@pytest.mark.parametrize("kept", ["first", "second"])
def test_the_advice_after_a_full_disk_is_never_refused(folders, monkeypatch, capsys, kept):
    words = () if kept == "first" else ("--rule", "nan", "--overwrite")
    out = folders / "predictions"
    if kept == "second":
        assert evaluate(folders) == 0

    def full(contents):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(evaluating.InputRecord, "write", full)
        assert evaluate(folders, *words) == 2
    assert "make room and repeat the command" in capsys.readouterr().err
    if kept == "first":
        assert not (out / "per_case.csv").exists()
    else:  # the earlier table keeps the record of its inputs
        assert json.loads((out / "evaluation.json").read_text())["rule"] == "brats"
        assert {row["empty_rule"] for row in rows_of(out / "per_case.csv")} == {"brats"}
    assert evaluate(folders, *words) == 0


def whole_masks(folder, side):
    for path in (folder / side).rglob("*.nii.gz"):
        write(path, (np.asarray(nib.load(path).dataobj) > 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("side", "option"), [("references", "labels"), ("predictions", "prediction_labels")]
)
def test_masks_of_the_whole_tumour_are_not_scored_as_core_and_the_advice_works(
    folders, capsys, side, option
):
    whole_masks(folders, side)
    assert evaluate(folders) == 2
    printed = capsys.readouterr().err
    assert f"give --{option} a YAML file with whole: 1" in printed
    assert "--regions WT" in printed
    assert evaluate(folders, "--regions", "WT") == 0
    (folders / "whole.yaml").write_text("whole: 1\n")
    words = (f"--{option}", folders / "whole.yaml", "--out", folders / "second")
    assert evaluate(folders, *words, "--regions", "WT,TC") == 2
    assert (
        "whole (whole tumour 1), which marks WT alone; give --regions WT" in capsys.readouterr().err
    )
    assert evaluate(folders, *words) == 0
    columns = rows_of(folders / "second" / "per_case.csv")[0]
    assert "dice/WT" in columns
    assert "dice/TC" not in columns
