"""The sequence of each file in a patient's folder, by names alone."""

from pathlib import Path

import pytest

from datamodules.exams.sequence_names import (
    find_exams,
    modalities_of,
    named_modality,
    single_exam,
    tokens,
)
from errors import InputError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("t1.nii.gz", "t1"),
        ("P12_T1w.nii", "t1"),
        ("p12-t1n.nii.gz", "t1"),
        ("T1_pre.nii.gz", "t1"),
        ("T1_without_contrast.nii.gz", "t1"),
        ("ax_t1_post_op.nii.gz", "t1"),
        ("t1ce.nii.gz", "t1ce"),
        ("P12-T1c.nii.gz", "t1ce"),
        ("t1_gd.nii.gz", "t1ce"),
        ("T1 post contrast.nii.gz", "t1ce"),
        ("4_t1_mprage_sag_p2_iso_km.nii.gz", "t1ce"),
        ("sub-01_ce-gd_T1w.nii.gz", "t1ce"),
        ("T1POST.nii.gz", "t1ce"),
        ("t2.nii.gz", "t2"),
        ("x_T2w_tse.nii.gz", "t2"),
        ("flair.nii.gz", "flair"),
        ("T2_FLAIR.nii.gz", "flair"),
        ("t2flair.nii.gz", "flair"),
        ("case_fla.nii.gz", "flair"),
        ("case-t2f.nii.gz", "flair"),
    ],
)
def test_common_names(name, modality):
    assert modalities_of(tokens(Path(name))) == [modality]


def test_a_folder_of_files_is_a_patient(tmp_path):
    names = ("T1.nii.gz", "T1_Gd.nii.gz", "T2.nii.gz", "T2_FLAIR.nii.gz", "tumour.nii.gz")
    touch(tmp_path / "HGG" / "P1", *names)
    touch(tmp_path / "LGG" / "P2", "t1.nii", "t2.nii", "adc_map.nii", "brain_mask.nii")
    first, second = find_exams(tmp_path)
    assert (first.case_id, first.patient_id, first.layout) == ("P1", "P1", "exam")
    assert {m: i.path.name for m, i in first.images.items()} == dict(
        zip(("t1", "t1ce", "t2", "flair"), names, strict=False)
    )
    assert first.label == tmp_path / "HGG" / "P1" / "tumour.nii.gz"
    assert first.prediction_name == "P1_seg.nii.gz"
    assert set(second.images) == {"t1", "t2"}
    assert second.label is None
    assert "adc_map.nii" in second.notices[0]
    assert "brain_mask.nii" in second.notices[0]


def test_time_points_are_one_patient_and_shared_names_take_their_parents(tmp_path):
    for folder in ("P1/2019-03-01", "P1/2020-04-02", "P2/baseline", "A/same", "B/same"):
        touch(tmp_path / folder, "t1.nii.gz", "t2.nii.gz")
    exams = {exam.case_id: exam.patient_id for exam in find_exams(tmp_path)}
    assert exams == {
        "P1-2019-03-01": "P1",
        "P1-2020-04-02": "P1",
        "P2-baseline": "P2",
        "A-same": "A",
        "B-same": "B",
    }


def test_words_of_the_patients_name_tell_nothing(tmp_path):
    touch(tmp_path / "tumor_01", "tumor_01_t1.nii.gz", "tumor_01_t2.nii.gz")
    touch(tmp_path / "X", "brain_tumor_t1.nii.gz", "brain_tumor_t2.nii.gz")
    touch(tmp_path / "T2_study_7", "T2_study_7_t1.nii.gz", "T2_study_7_t2.nii.gz")
    for exam in find_exams(tmp_path):
        assert set(exam.images) == {"t1", "t2"}
        assert exam.label is None


def test_two_files_for_one_modality_are_refused_all_at_once(tmp_path):
    touch(tmp_path / "P1", "t1c.nii.gz", "t1_post.nii.gz", "t2.nii.gz")
    touch(tmp_path / "P2", "flair.nii.gz", "t2_flair.nii.gz")
    touch(tmp_path / "P3", "t2.nii.gz", "seg.nii.gz", "label.nii.gz")
    with pytest.raises(InputError) as caught:
        find_exams(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for name in ("t1ce", str(tmp_path / "P1" / "t1c.nii.gz"), "t1_post.nii.gz"):
        assert name in lines[0]
    assert "two files for flair" in lines[1]
    assert "two labels" in lines[2]


def test_a_name_that_claims_two_modalities_is_refused(tmp_path):
    touch(tmp_path / "P1", "t1_to_t2.nii.gz", "t2.nii.gz")
    with pytest.raises(InputError, match="names both t1 and t2"):
        find_exams(tmp_path)


@pytest.mark.parametrize(
    ("name", "modality"),
    [("seg_t1ce.nii.gz", "t1ce"), ("P1_T2_FLAIR_mask.nii.gz", "flair"), ("seg.nii.gz", None)],
)
def test_a_labels_name_may_say_what_it_was_drawn_on(tmp_path, name, modality):
    touch(tmp_path / "P1", "t1.nii.gz", "t1ce.nii.gz", "t2.nii.gz", "flair.nii.gz", name)
    (exam,) = find_exams(tmp_path)
    assert exam.label is not None
    assert exam.label.name == name
    assert named_modality(exam.label) == modality


def test_a_label_convention_by_name(tmp_path):
    touch(tmp_path / "P1", "t1.nii.gz", "t2.nii.gz")
    assert find_exams(tmp_path, "brats2021")[0].convention.enhancing == 4
    assert find_exams(tmp_path)[0].convention.values == {0, 1, 2, 3}
    with pytest.raises(InputError, match="labels brats1066 is neither a file nor one of brats2017"):
        find_exams(tmp_path, "brats1066")


def test_nothing_to_find(tmp_path):
    with pytest.raises(InputError, match="no NIfTI file found"):
        find_exams(tmp_path)
    touch(tmp_path / "P1", "series7.nii.gz")
    with pytest.raises(InputError, match=r"no modality recognised .*series7\.nii\.gz"):
        find_exams(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_exams(tmp_path / "absent")


def test_one_exam_given_as_files(tmp_path):
    touch(tmp_path, "P7_t1.nii.gz", "P7_t2.nii.gz")
    exam = single_exam({"t1": tmp_path / "P7_t1.nii.gz", "t2": tmp_path / "P7_t2.nii.gz"})
    assert (exam.case_id, exam.layout, set(exam.images)) == ("P7", "exam", {"t1", "t2"})
    assert (
        single_exam(
            {m: image.path for m, image in exam.images.items()}, "brats2021"
        ).convention.enhancing
        == 4
    )
    with pytest.raises(InputError, match="needs a T2"):
        single_exam({"t1": tmp_path / "P7_t1.nii.gz"})
    with pytest.raises(InputError, match="is not a file"):
        single_exam({"t1": tmp_path / "absent.nii.gz", "t2": tmp_path / "P7_t2.nii.gz"})
