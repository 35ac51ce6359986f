"""Exams of BIDS data sets: entities, sessions, labels in derivatives, participants.tsv."""

import pytest

from datamodules.exams.sequence_names import find_exams, sort_exams
from datamodules.layouts.bids import UNSTATED_MEANING
from datamodules.patients.find import find_cases
from datamodules.patients.left_out import left_out
from datamodules.slices.sources import recognise
from errors import InputError

FOUR = ("T1w", "ce-gd_T1w", "T2w", "FLAIR")


def put(root, stem, *ends):
    """Files of a session, such as `sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz`."""
    for end in ends:
        path = root / f"{stem}_{end}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def images(case):
    return {modality: image.path.name for modality, image in case.images.items()}


@pytest.fixture
def data_set(tmp_path):
    for subject, session in (("01", "01"), ("01", "02"), ("02", "01")):
        stem = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"
        put(tmp_path, stem, *FOUR)
        put(tmp_path, f"derivatives/expert/{stem}", "dseg", "desc-brain_mask")
    put(tmp_path, "sub-01/ses-01/dwi/sub-01_ses-01", "dwi")
    return tmp_path


def test_sessions_are_exams_of_their_subject_in_both_studies(data_set):
    exams, cases = find_exams(data_set), find_cases(data_set)
    assert recognise(data_set, None) == "exams"
    for found, layout in ((exams, "exam"), (cases, "bids")):
        assert [(c.case_id, c.patient_id, c.layout) for c in found] == [
            ("sub-01_ses-01", "sub-01", layout),
            ("sub-01_ses-02", "sub-01", layout),
            ("sub-02_ses-01", "sub-02", layout),
        ]
        assert images(found[0]) == {
            "t1": "sub-01_ses-01_T1w.nii.gz",
            "t1ce": "sub-01_ses-01_ce-gd_T1w.nii.gz",
            "t2": "sub-01_ses-01_T2w.nii.gz",
            "flair": "sub-01_ses-01_FLAIR.nii.gz",
        }
        for case in found:
            assert case.label is not None
            assert case.label.name == f"{case.case_id}_dseg.nii.gz"
            assert case.prediction_name == f"{case.case_id}_seg.nii.gz"
    assert [UNSTATED_MEANING in case.notices for case in cases] == [True, False, False]
    assert cases[0].convention.enhancing == 3
    assert find_cases(data_set, "bids") == cases


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (
            ("acq-mprage_run-1_T1w", "acq-postgd_T1w", "rec-x_T2w", "acq-3d_FLAIR"),
            ("acq-mprage_run-1_T1w", "acq-postgd_T1w", "rec-x_T2w", "acq-3d_FLAIR"),
        ),
        (
            ("space-MNI_desc-preproc_T1w", "ce-gadolinium_run-1_space-MNI_T1w", "T2w", "FLAIR"),
            ("space-MNI_desc-preproc_T1w", "ce-gadolinium_run-1_space-MNI_T1w", "T2w", "FLAIR"),
        ),
        (("T1w", "part-phase_T1w", "ce-gd_T1w", "T2w", "FLAIR"), FOUR),
        (("T1w", "ce-gd_T1w", "T2w", "FLAIR", "bold", "PDw", "T2starw"), FOUR),
    ],
)
def test_entities_of_images(tmp_path, ends, expected):
    put(tmp_path, "sub-7/anat/sub-7", *ends)
    (case,) = find_cases(tmp_path)
    assert (case.case_id, case.patient_id) == ("sub-7", "sub-7")
    assert list(images(case).values()) == [f"sub-7_{end}.nii.gz" for end in expected]


@pytest.mark.parametrize(
    ("ends", "label"),
    [
        (("label-tumor_mask", "label-brain_mask"), "label-tumor_mask"),
        (("space-T1w_dseg", "desc-tumor_mask"), "space-T1w_dseg"),
        (("seg",), "seg"),
        (("desc-brain_mask",), None),
    ],
)
def test_labels(tmp_path, ends, label):
    put(tmp_path, "sub-7/anat/sub-7", *FOUR, *ends)
    (case,) = find_cases(tmp_path)
    assert (case.label.name if case.label else None) == (label and f"sub-7_{label}.nii.gz")


@pytest.mark.parametrize(
    ("ends", "parts"),
    [
        (("run-1_T1w", "run-2_T1w"), ("2 files for t1,", "sub-1_run-1_T1w", "sub-1_run-2_T1w")),
        (("T1w", "label-a_mask", "label-b_mask"), ("2 labels", "label-a_mask", "label-b_mask")),
    ],
)
def test_two_files_for_one_thing_are_one_sentence_and_its_advice_works(tmp_path, ends, parts):
    put(tmp_path, "sub-1/anat/sub-1", "ce-gd_T1w", "T2w", "FLAIR", *ends)
    put(tmp_path, "sub-2/anat/sub-2", *FOUR)
    exams, problems = sort_exams(tmp_path)
    assert [exam.case_id for exam in exams] == ["sub-2"]
    with pytest.raises(InputError) as caught:
        find_cases(tmp_path)
    for sentence in (problems["sub-1"], str(caught.value)):
        assert "\n" not in sentence
        assert all(part in sentence for part in (*parts, "give data.layout a YAML file"))
    layout = tmp_path / "bids.yaml"
    layout.write_text(
        "images:\n"
        f"  t1: 'sub-{{patient}}/anat/*_{ends[0] if 'run' in ends[0] else 'T1w'}.nii.gz'\n"
        "  t1ce: 'sub-{patient}/anat/*_ce-*_T1w.nii.gz'\n"
        "  t2: 'sub-{patient}/anat/*_T2w.nii.gz'\n"
        "  flair: 'sub-{patient}/anat/*_FLAIR.nii.gz'\n"
        "label: 'sub-{patient}/anat/*_label-a_mask.nii.gz'\n"
        "labels: {necrosis: 1, oedema: 2, enhancing: 3}\n"
    )
    case = find_cases(tmp_path, layout)[0]
    assert images(case)["t1"] == f"sub-1_{ends[0]}.nii.gz"
    assert images(case)["t1ce"] == "sub-1_ce-gd_T1w.nii.gz"


def test_two_data_sets_below_one_root_have_exams_of_their_own(tmp_path):
    for name in ("a", "b"):
        put(tmp_path, f"{name}/sub-1/anat/sub-1", *FOUR, "dseg")
    assert {c.case_id: (c.patient_id, c.label and c.label.parents[2].name)
            for c in find_cases(tmp_path)} == {
        "a_sub-1": ("sub-1", "a"), "b_sub-1": ("sub-1", "b")
    }  # fmt: skip


def test_derivatives_alone_are_a_data_set(tmp_path):
    put(tmp_path, "derivatives/prep/sub-1/anat/sub-1", *FOUR)
    assert [case.case_id for case in find_cases(tmp_path)] == ["sub-1"]


def test_a_given_layout_without_such_names_is_one_sentence(tmp_path):
    put(tmp_path, "P1/P1", "T1w")
    with pytest.raises(InputError, match=r"no file below data\.root .* is named as BIDS"):
        find_cases(tmp_path, "bids")


@pytest.mark.parametrize("column", ["patient_id", "subject", "Patient_ID", "PatientID"])
def test_participants_may_name_one_person_twice(data_set, column):
    table = f"participant_id\tage\t{column}\nsub-01\t40\tA\nsub-02\t41\tA\n\n"
    (data_set / "participants.tsv").write_text(table)
    assert {c.patient_id for c in find_cases(data_set)} == {"A"}
    assert {c.patient_id for c in find_exams(data_set)} == {"A"}
    assert {c.patient_id for c in find_cases(data_set / "sub-02")} == {"A"}


@pytest.mark.parametrize(
    "table",
    [
        "participant_id\tage\nsub-01\t40\n",
        "participant_id\tpatient_id\nsub-01\tn/a\n",
        "participant_id\tage\tsex\nsub-01\t40\nsub-02\t40\tM\tlate\n",
    ],
)
def test_participants_without_persons_leave_the_subjects(data_set, table):
    (data_set / "participants.tsv").write_text(table)
    assert {c.patient_id for c in find_cases(data_set)} == {"sub-01", "sub-02"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column participant_id"),
        (b"participant_id,patient_id\nsub-01,A\n", "has no column participant_id"),
        (b"participant_id\tpatient_id\nsub-01\n", "line 2 .* has 1 columns, its first line 2"),
        (b"participant_id\tpatient_id\nsub-01\tA\nsub-01\tB\n", "names both A and B"),
        (b"\xff\xfe\x00", "cannot be read as a table"),
    ],
)
def test_a_broken_table_of_participants_is_one_sentence(data_set, content, message):
    (data_set / "participants.tsv").write_bytes(content)
    for find in (find_cases, find_exams):
        with pytest.raises(InputError, match=message) as caught:
            find(data_set)
        assert "\n" not in str(caught.value)
        assert "participants.tsv" in str(caught.value)


def test_an_image_beside_the_subjects_is_named_and_other_data_of_bids_is_not(data_set):
    assert left_out(data_set, find_cases(data_set)) == []
    put(data_set, "sub-01/dwi/sub-01", "dwi")
    put(data_set, "derivatives/other/sub-01/anat/sub-01", "probseg")
    assert left_out(data_set, find_cases(data_set)) == []
    put(data_set, "HGG/Brats18_2013_21_1/Brats18_2013_21_1", "t1")
    (sentence,) = left_out(data_set, find_cases(data_set))
    assert sentence.startswith("1 NIfTI file belongs to no case and is left out: HGG/")
