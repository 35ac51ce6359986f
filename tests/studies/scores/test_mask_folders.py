"""Finding masks in a folder: by content where a name is ambiguous; left-out files are counted."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from datamodules.layouts.conventions import BRATS_4
from studies.scores.mask_folders import find_masks
from tests.studies.masks import evaluate, regions, rows_of, write

LABELS = BRATS_4.from_regions(regions(1))
OTHER = np.roll(LABELS, 1, axis=0)
GREY = np.random.default_rng(0).integers(0, 900, LABELS.shape).astype(np.int16)
WORDS = ("--labels", "brats2021")


def masks(folder, *names, labels=LABELS):
    for name in names:
        write(folder / name, labels)


@pytest.mark.parametrize("end", ["_T{}", "-t{}c", "_{:04d}", "_00{}", " visit {}", "_{}_flair"])
def test_time_points_named_like_sequences_are_scored(tmp_path, capsys, end):
    names = [f"sub01{end.format(number)}.nii.gz" for number in range(1, 4)]
    masks(tmp_path / "references", *names)
    masks(tmp_path / "predictions", *names, labels=OTHER)
    assert evaluate(tmp_path, labels=WORDS) == 0
    assert len(rows_of(tmp_path / "predictions" / "per_case.csv")) == 3
    assert "left out" not in capsys.readouterr().out


def test_images_beside_masks_are_left_out_counted_and_named(tmp_path, capsys):
    for kind in ("t1", "t1ce", "t2", "flair"):
        write(tmp_path / "references" / "a" / f"a_{kind}.nii.gz", GREY)
    masks(tmp_path / "references" / "a", "a_seg.nii.gz")
    masks(tmp_path / "references", "b_seg.nii.gz")
    write(tmp_path / "references" / "b.nii.gz", GREY)  # the image that the mask belongs to
    masks(tmp_path / "predictions", "a.nii.gz", "b.nii.gz", "c.nii.gz", labels=OTHER)
    write(tmp_path / "predictions" / "z_probabilities.nii.gz", np.zeros((2, 2, 2, 3), np.float32))
    assert evaluate(tmp_path, labels=WORDS) == 0
    assert [row["case_id"] for row in rows_of(tmp_path / "predictions" / "per_case.csv")] == [
        "a",
        "b",
    ]
    printed = capsys.readouterr().out
    assert "left out of --references, images and no label maps: 5 (" in printed
    assert "a_t1ce.nii.gz" in printed
    assert "left out of --predictions, no case's label map: 1 (z_probabilities.nii.gz)" in printed
    assert "1 predictions have no reference: c" in printed


def test_files_that_a_layout_overlooks_are_named(tmp_path, capsys):
    masks(tmp_path / "references", "BraTS2021_00001_seg.nii.gz", "stray_seg.nii.gz")
    masks(tmp_path / "predictions", "BraTS2021_00001_seg.nii.gz", "stray.nii.gz", labels=OTHER)
    assert evaluate(tmp_path, labels=()) == 0
    printed = capsys.readouterr().out
    assert "left out of --references, no case's label map: 1 (stray_seg.nii.gz)" in printed
    assert "left out of --predictions, no case's label map: 1 (stray.nii.gz)" in printed


def test_what_tools_append_to_a_name_is_not_the_case(tmp_path):
    masks(tmp_path / "references", "a_mask.nii.gz", "b-label.nii", "c_SEG.NII.GZ", "d/seg.nii.gz")
    masks(tmp_path / "predictions", "a_pred.nii.gz", "b.nii.gz", "c-seg.nii.gz", "d.nii.gz")
    assert set(find_masks(tmp_path / "references", "references").by_case) == set("abcd")
    assert evaluate(tmp_path, labels=WORDS) == 0
    assert len(rows_of(tmp_path / "predictions" / "per_case.csv")) == 4


@pytest.mark.parametrize("order", ["LPS", "SAR"])
def test_masks_in_another_order_of_voxels_score_the_same(tmp_path, order):
    for name, labels in (("references", LABELS), ("predictions", OTHER)):
        masks(tmp_path / name, "a.nii.gz", "b.nii.gz", labels=labels)
    path = tmp_path / "predictions" / "b.nii.gz"
    image = nib.load(path)
    to = nib.orientations.axcodes2ornt(order)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), to)
    nib.save(image.as_reoriented(turn), path)
    chances = np.stack([regions(1)] * 1)[0].astype(np.float32)
    for case_id in ("a", "b"):
        write(
            tmp_path / "predictions" / f"{case_id}_probabilities.nii.gz", np.moveaxis(chances, 0, 3)
        )
    assert evaluate(tmp_path, labels=WORDS) == 0
    a, b = rows_of(tmp_path / "predictions" / "per_case.csv")
    assert {k: v for k, v in a.items() if k != "case_id"} == {
        k: v for k, v in b.items() if k != "case_id"
    }


def test_labels_rounded_by_scaling_and_files_named_after_another_compression(tmp_path, capsys):
    masks(tmp_path / "references", "a.nii.gz", "b.nii.gz")
    masks(tmp_path / "predictions", "a.nii.gz", "b.nii.gz", labels=OTHER * np.float32(1.0002))
    plain = tmp_path / "references" / "a.nii.gz"
    plain.write_bytes(gzip.decompress(plain.read_bytes()))
    assert evaluate(tmp_path, labels=WORDS) == 0
    masks(tmp_path / "predictions", "b.nii.gz", labels=OTHER * np.float32(1.01))
    assert evaluate(tmp_path, "--overwrite", labels=WORDS) == 1
    assert "at voxel (" in capsys.readouterr().out
