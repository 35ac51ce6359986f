"""Exams in the folders of public collections, by made-up files under their real names."""

import pytest

from datamodules.exams.exam_folders import case_names
from datamodules.exams.sequence_names import find_exams, sort_exams
from datamodules.layouts.case_files import MODALITIES
from datamodules.patients.find import find_cases
from errors import InputError

ROLES = (*MODALITIES, "label")
PDGM = "UCSF-PDGM-0004"
SERIES = ("T1", "T1c", "T2", "FLAIR")
EXTRA = ("ADC", "SWI", "SWI_bias", "DWI", "ASL", "DTI_eddy_FA", "DTI_eddy_L1", "brain_segmentation",
         "brain_parenchyma_segmentation")  # fmt: skip


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(exam, root):
    """Path below the root of every modality and the label."""
    files = {modality: image.path for modality, image in exam.images.items()}
    files |= {"label": exam.label} if exam.label else {}
    return {role: path.relative_to(root).as_posix() for role, path in files.items()}


def five(pattern, *ends):
    return {role: pattern.format(end) for role, end in zip(ROLES, ends, strict=False)}


# Exam and patient, with the files that are taken, and files beside them that are not.
COLLECTIONS = {
    "UCSF-PDGM": (
        {(PDGM, PDGM): five(f"{PDGM}_nifti/{PDGM}_{{}}.nii.gz", *SERIES, "tumor_segmentation")},
        [f"{PDGM}_nifti/{PDGM}_{end}.nii.gz" for end in EXTRA],
    ),
    "UCSF-PDGM, corrected for bias": (
        {
            (PDGM, PDGM): five(
                f"{PDGM}_nifti/{PDGM}_{{}}.nii.gz",
                "T1_bias",
                "T1c_bias",
                "T2_bias",
                "FLAIR_bias",
                "tumor_segmentation",
            )
        },
        [f"{PDGM}_nifti/{PDGM}_{end}.nii.gz" for end in (*SERIES, *EXTRA)],
    ),
    "EGD": (
        {
            (f"EGD-000{i}", f"EGD-000{i}"): five(
                f"EGD-000{i}/{{}}.nii.gz", "1_T1", "2_T1GD", "3_T2", "4_FLAIR", "MASK"
            )
            for i in (1, 2)
        },
        [],
    ),
    "EGD, a folder a sequence": (
        {
            (f"EGD-000{i}", f"EGD-000{i}"): five(
                f"EGD-000{i}/{{}}.nii.gz",
                "1_T1/NIFTI/T1",
                "2_T1GD/NIFTI/T1GD",
                "3_T2/NIFTI/T2",
                "4_FLAIR/NIFTI/FLAIR",
                "MASK/NIFTI/MASK",
            )
            for i in (1, 2)
        },
        [],
    ),
    "RHUH": (
        {
            (f"RHUH-0001-{t}", "RHUH-0001"): five(
                f"RHUH-0001/{t}/RHUH-0001_{t}_{{}}.nii.gz",
                "t1",
                "t1ce",
                "t2",
                "flair",
                "segmentations",
            )
            for t in (0, 1)
        },
        [f"RHUH-0001/{t}/RHUH-0001_{t}_adc.nii.gz" for t in (0, 1)],
    ),
    "UPENN-GBM": (
        {
            (f"UPENN-GBM-0000{i}_{t}", f"UPENN-GBM-0000{i}"): five(
                f"images_structural/UPENN-GBM-0000{i}_{t}/UPENN-GBM-0000{i}_{t}_{{}}.nii.gz",
                "T1",
                "T1GD",
                "T2",
                "FLAIR",
            )
            | {"label": f"images_segm/UPENN-GBM-0000{i}_{t}_segm.nii.gz"}
            for i, t in ((1, 11), (1, 21), (2, 11))
        },
        ["automated_segm/UPENN-GBM-00001_11_automated_approx_segm.nii.gz"],
    ),
    "LUMIERE": (
        {
            (f"Patient-001-{week}", "Patient-001"): five(
                f"Patient-001/{week}/{{}}.nii.gz", "T1", "CT1", "T2", "FLAIR"
            )
            for week in ("week-000-1", "week-000-2", "week-044")
        },
        [
            "Patient-001/week-044/HD-GLIO-AUTO-segmentation/native/segmentation_CT1.nii.gz",
            *(
                f"Patient-001/week-044/DeepBraTumIA-segmentation/{grid}/{name}.nii.gz"
                for grid in ("atlas", "native")
                for name in ("segmentation/seg_mask", "skull_strip/ct1", "skull_strip/t2")
            ),
        ],
    ),
    "MU-Glioma-Post": (
        {
            (f"PatientID_0003-Timepoint_{t}", "PatientID_0003"): five(
                f"PatientID_0003/Timepoint_{t}/PatientID_0003_Timepoint_{t}_{{}}.nii.gz",
                "brain_t1n",
                "brain_t1c",
                "brain_t2w",
                "brain_t2f",
                "tumorMask",
            )
            for t in (1, 2)
        },
        [],
    ),
    "UCSF-ALPTDG": (
        {
            (f"100101_time{t}", "100101"): five(
                f"100101/100101_time{t}_{{}}.nii.gz", "t1", "t1ce", "t2", "flair", "seg"
            )
            for t in (1, 2)
        },
        [],
    ),
    "TCGA": (
        {
            ("TCGA-02-0006", "TCGA-02-0006"): five(
                "TCGA-02-0006/TCGA-02-0006_1996.08.23_{}.nii.gz",
                "t1",
                "t1Gd",
                "t2",
                "flair",
                "GlistrBoost_ManuallyCorrected",
            )
        },
        ["TCGA-02-0006/TCGA-02-0006_1996.08.23_GlistrBoost.nii.gz"],
    ),
    "ReMIND": (
        {
            (f"ReMIND-001-{when}", "ReMIND-001"): five(
                f"ReMIND-001/{when}/ReMIND-001-{when}-{{}}.nii.gz", *SERIES
            )
            for when in ("preop", "intraop")
        },
        [],
    ),
    "all in one folder": (
        {
            (f"P0{i}_v{v}", f"P0{i}"): five(f"P0{i}_v{v}_{{}}.nii.gz", *SERIES, "seg")
            for i in (1, 2)
            for v in (1, 2)
        },
        [],
    ),
    "a folder of masks": (
        {("P1", "P1"): five("P1/{}.nii.gz", *SERIES, "masks/tumour")},
        [],
    ),
    "a folder a sequence, nothing in the names": (
        {("P1-0", "P1"): five("P1/0/{}/scan.nii.gz", "t1", "t1ce", "t2", "flair", "seg")},
        [],
    ),
}


@pytest.mark.parametrize(("exams", "others"), COLLECTIONS.values(), ids=COLLECTIONS)
def test_public_collections(tmp_path, exams, others):
    taken = [name for files in exams.values() for name in files.values()]
    touch(tmp_path, *taken, *others)
    cases = find_exams(tmp_path)
    assert {(case.case_id, case.patient_id): found(case, tmp_path) for case in cases} == exams
    notices = " ".join(notice for case in cases for notice in case.notices)
    assert not others or any(word in notices for word in ("left out", "taken"))


# A few lines of YAML for the same collections, in both studies: patterns of the four and the label.
DESCRIBED = {
    "UCSF-PDGM": five("{{case}}_nifti/{{case}}_{}.nii.gz", *SERIES, "tumor_segmentation"),
    "UPENN-GBM": five(
        "images_structural/{{case}}/{{case}}_{}.nii.gz", "T1", "T1GD", "T2", "FLAIR"
    )
    | {"label": "images_segm/{case}_segm.nii.gz"},
    "RHUH": five(
        "{{patient}}/{{session}}/*_{}.nii.gz", "t1", "t1ce", "t2", "flair", "segmentations"
    ),
    "LUMIERE": five("{{patient}}/{{session}}/{}.nii.gz", "T1", "CT1", "T2", "FLAIR"),
    "MU-Glioma-Post": five(
        "{{patient}}/{{session}}/*_{}.nii.gz", "t1n", "t1c", "t2w", "t2f", "tumorMask"
    ),
    "EGD, a folder a sequence": five(
        "{{case}}/{}.nii.gz", "1_T1/*/T1", "2_T1GD/*/T1GD", "3_T2/*/T2", "4_FLAIR/*/FLAIR",
        "MASK/*/MASK"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_few_lines_describe_them(tmp_path, name):
    exams, others = COLLECTIONS[name]
    touch(tmp_path, *[path for files in exams.values() for path in files.values()], *others)
    patterns = dict(DESCRIBED[name])
    label = patterns.pop("label", None)
    layout = tmp_path / "layout.yaml"
    layout.write_text(
        "images:\n"
        + "".join(f"  {modality}: '{pattern}'\n" for modality, pattern in patterns.items())
        + (f"label: '{label}'\n" if label else "")
        + "labels: {necrosis: 1, oedema: 2, enhancing: 3}\n"
    )
    cases = find_cases(tmp_path, layout)
    assert [found(case, tmp_path) for case in cases] == [exams[key] for key in sorted(exams)]
    assert [case.patient_id for case in cases] == [patient for _, patient in sorted(exams)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("T1.nii.gz", "T1_reg.nii.gz", "T2.nii.gz"), "two files for t1"),
        (("T1_bias.nii.gz", "T1_n4.nii.gz", "T2.nii.gz"), "two files for t1"),
        (("T1.nii.gz", "T2.nii.gz", "seg.nii.gz", "seg2_label.nii.gz"), "two labels"),
    ],
)
def test_two_versions_are_refused_unless_a_rule_decides(tmp_path, names, message):
    touch(tmp_path / "P1", *names)
    _, problems = sort_exams(tmp_path)
    assert message in problems["P1"]
    assert "leave one of them" in problems["P1"]


def test_labels_that_belong_to_no_exam_are_named(tmp_path):
    touch(tmp_path, "images/P1/t1.nii.gz", "images/P1/t2.nii.gz", "labels/P7_seg.nii.gz")
    (exam,) = find_exams(tmp_path)
    assert exam.label is None
    assert "P7_seg.nii.gz" in exam.notices[0]


def test_a_later_exam_may_lie_below_an_earlier_one(tmp_path):
    touch(tmp_path / "P1", "t1.nii.gz", "t2.nii.gz", "2020-01-01/t1.nii.gz", "2020-01-01/t2.nii.gz")
    assert {e.case_id: e.patient_id for e in find_exams(tmp_path)} == {
        "P1": "P1", "P1-2020-01-01": "P1"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["UCSF-PDGM-0004_nifti"], ["UCSF-PDGM-0004"]),
        (["P1_0000", "P2_0000"], ["P1", "P2"]),
        (["P 1", "P_1"], ["P_1", "P_1-2"]),
        (["Müller, Hans/2019 03 04"], ["Müller_Hans-2019_03_04"]),
        (["P1/anat", "P2/anat"], ["P1", "P2"]),
        (["baseline/P1", "followup/P1"], ["baseline-P1", "followup-P1"]),
        (["sub-01/ses-1/anat", "sub-01/ses-2/anat"], ["sub-01_ses-1", "sub-01_ses-2"]),
        (["P1/P1_v1", "P1/P1_v2"], ["P1_v1", "P1_v2"]),
        (["p1/a", "P1/A"], ["P1-A", "p1-a-2"]),
        (["HGG/P1", "LGG/P2"], ["P1", "P2"]),
        (["P1/..", "P2/a:b*c?"], ["P1-exam", "P2-a_b_c"]),
    ],
)
def test_names_of_exams_are_short_unique_and_fit_for_files(places, names):
    assert [case_names(places)[place] for place in sorted(places)] == sorted(names, key=names.index)


def test_placeholders_that_tell_no_exam_are_refused(tmp_path):
    touch(tmp_path, "P1/0/t1.nii.gz")
    layout = tmp_path / "layout.yaml"
    for pattern in ("{session}/t1.nii.gz", "t1.nii.gz", "{case}/{session}/t1.nii.gz"):
        images = "".join(f"  {m}: '{pattern}'\n" for m in MODALITIES)
        layout.write_text(f"images:\n{images}labels: {{necrosis: 1, oedema: 2, enhancing: 3}}\n")
        with pytest.raises(InputError, match="case"):
            find_cases(tmp_path, layout)
