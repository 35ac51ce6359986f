"""Which exams are of one patient: names of cohorts with sessions, and of cohorts without."""

import hashlib
import random
import uuid
from collections import defaultdict

import pytest

from datamodules.patients.exam_names import group, official


def exams_of(places):
    """The exams of each patient that has several."""
    found = defaultdict(set)
    for place, patient in group(places).patients.items():
        found[patient].add(place)
    return {frozenset(places) for places in found.values() if len(places) > 1}


def flat(patients):
    return [place for places in patients for place in places]


# Exams of one patient stand in one list.
SESSIONS = {
    "BIDS": [["sub-01/ses-01/anat", "sub-01/ses-02/anat"], ["sub-02/ses-01/anat"]],
    "BIDS by words": [["sub-01/ses-preop", "sub-01/ses-postop"], ["sub-02/ses-preop"]],
    "LUMIERE": [
        ["Patient-001/week-000-1", "Patient-001/week-000-2", "Patient-001/week-044"],
        ["Patient-002/week-000"],
    ],
    "RHUH": [["RHUH-0001/0", "RHUH-0001/1"], ["RHUH-0002/0"]],
    "RHUH, whole": [[f"RHUH-000{i}/{j}" for j in range(3)] for i in (1, 2)],
    "MU-Glioma-Post": [
        ["PatientID_0003/Timepoint_1", "PatientID_0003/Timepoint_2"],
        ["PatientID_0004/Timepoint_1"],
    ],
    "UPENN-GBM": [["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"], ["UPENN-GBM-00002_11"]],
    "UCSF-ALPTDG": [["100101/baseline", "100101/followup"], ["100102/baseline"]],
    "UCSF-ALPTDG, flat": [["100101/100101_time1", "100101/100101_time2"], ["100102/100102_time1"]],
    "UCSF-PDGM": [
        ["UCSF-PDGM-0429_nifti", "UCSF-PDGM-0429_FU003d_nifti"],
        ["UCSF-PDGM-0004_nifti"],
    ],
    "Yale": [["YG_0A1B/2015-01-02", "YG_0A1B/2016-01-02"], ["YG_0A1C/2015-01-02"]],
    "ReMIND": [["ReMIND-001/preop", "ReMIND-001/intraop"], ["ReMIND-002/preop"]],
    "BraTS-MEN": [["BraTS-MEN-00001-000", "BraTS-MEN-00001-001"], ["BraTS-MEN-00002-000"]],
    "BraTS-PED": [["BraTS-PED-00001-000", "BraTS-PED-00001-001"]],
    "BraTS 2018": [["Brats18_CBICA_AAB_1", "HGG/Brats18_CBICA_AAB_2"], ["Brats18_2013_21_1"]],
    "TCIA dates": [
        ["TCGA-GBM/TCGA-02-0006/08-23-1996-MR BRAIN", "TCGA-GBM/TCGA-02-0006/09-23-1996-NA"],
        ["TCGA-GBM/TCGA-02-0009/08-23-1996-MR"],
    ],
    "TCGA with dates": [["TCGA_CS_4938_19970222", "TCGA_CS_4938_19980222"]],
    "dates": [["P01/2019-03-04", "P01/20190304_1030", "P01/04.03.2020"], ["P02/2019-03-04"]],
    "dates in names": [["P01_20190304", "P01_20200101"], ["P02_20190101"]],
    "dates in front": [["2019-03-04_P01", "2020-03-04_P01"], ["2020-03-04_P02"]],
    "follow-up": [["P01_fu_12m", "P01-baseline"], ["P02-baseline"]],
    "pre and post": [["P01_pre", "P01_post"], ["P02_pre"]],
    "time of a trial": [["sub01_T0", "sub01_T1"], ["sub02_T0"]],
    "flat": [["P01_v1", "P01_v2"], ["P02_v1"]],
    "nnU-Net": [["case01_tp1", "case01_tp2"], ["case02_tp1"]],
    "numbers": [["P01_1", "P01_2"], ["P02_1"], ["P03_1"]],
    "numbers of numbers": [["1001_1", "1001_2"], ["1002_1"], ["1003"]],
    "letters": [["P01_A", "P01_B"], ["P02_A"]],
    "a name and a further one": [["P01", "P01_2"], ["P02"]],
    "glued": [["P01v1", "P01v2"], ["P02v1"]],
    "visits above": [["baseline/P01", "followup/P01"], ["baseline/P02"]],
    "visits above, numbered": [["scan1/P01", "scan2/P01"], ["scan1/P02"]],
    "years above": [["2019/P01", "2020/P01"], ["2020/P02"]],
    "visits in front": [["pre_001", "post_001"], ["pre_002"]],
    "accession numbers": [["P01/A8472", "P01/A9911"], ["P02/A1111"], ["P03/A22222"]],
    "family names": [["Smith/first", "Smith/second"], ["Jones/first"]],
    "family names with visits": [["Smith_baseline", "Smith_fu"], ["Jones_baseline"]],
    "two families with visits": [["Smith_pre", "Smith_post"], ["Jones_pre", "Jones_post"]],
    "initials": [["AB_1", "AB_2"], ["CD_1"], ["EF_1"], ["GH_1"]],
    "a collection spelled in two ways": [
        ["TCGA-02-0006_pre", "tcga_02_0006_post"],
        ["TCGA-02-0009"],
    ],
    "BraTS in small letters": [["BraTS-GLI-00005-100", "brats-gli-00005-101"]],
    "sites": [["siteA/P01/0", "siteA/P01/1"], ["siteB/P02/0"]],
    "parts of a cohort": [["train/P01_v1", "test/P01_v2"], ["test/P02_v1"]],
    "a part each": [["train/P01", "test/P01"], ["test/P02"]],
    "repeated names": [["P01/P01_1", "P01/P01_2"], ["P02/P02_1"]],
    "site, patient, exam": [["S1-001-1", "S1-001-2"], ["S1-002-1"], ["S2-001-1"]],
    "exam and run": [["P01_3_1", "P01_3_2", "P01_4_1"], ["P02_1_1"]],
    "spaces": [["Patient 12/2019 03 04", "Patient 12/2020 03 04"], ["Patient 13/2019 03 04"]],
    "upper and lower case": [["p01_v1", "P01_v2"], ["P02_v1"]],
    "free text": [["P01/1. pre OP", "P01/2. post OP"], ["P02/1. pre OP"]],
    "what only numbers tell": [["01/0", "01/1"], ["02/0"]],
}
# Every exam is of a patient of its own.
ORDINARY = {
    "numbers": [f"P{i:03d}" for i in range(1, 201)],
    "BraTS 2021": [f"BraTS2021_{i:05d}" for i in range(100)],
    "BraTS 2020": ["BraTS20_Training_001", "BraTS20_Training_002"],
    "BraTS 2018": ["Brats18_2013_21_1", "Brats18_2013_22_1", "HGG/Brats18_CBICA_AAB_1"],
    "UCSF-PDGM": ["UCSF-PDGM-0004_nifti", "UCSF-PDGM-0005_nifti"],
    "TCGA": ["TCGA-DU-7294", "TCGA-DU-7298", "TCGA-02-0006", "TCGA-02-0009"],
    "IXI": ["IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212"],
    "CPTAC": ["C3L-00016", "C3L-00017", "C3N-00016"],
    "ADNI": ["002_S_0295", "002_S_0413", "005_S_0221"],
    "REMBRANDT": [*(f"900_00_{i}" for i in range(5299, 5310)), "HF1318"],
    "BIDS": ["sub-001", "sub-002", "sub-003/anat"],
    "few": [f"case_{i}" for i in range(6)],
    "phantoms": [f"phantom-0-{i:04d}" for i in range(12)],
    "a beginning of another": ["Pat_12", "Pat_121", "Pat_1"],
    "sites": ["site1_001", "site1_002", "site2_001"],
    "site and number": [f"{s:02d}-{i:03d}" for s in range(1, 16) for i in range(1, 9)],
    "folders of sites": [f"site{s}/{i:03d}" for s in "ABC" for i in range(1, 5)],
    "folders of places": [
        f"{s}/P{i}" for s, a in (("Bern", 0), ("Rome", 9)) for i in range(a, a + 9)
    ],
    "grades": ["HGG/0001", "HGG/0002", "LGG/0001"],
    "parts": ["train/P01", "train/P02", "test/P03"],
    "years of inclusion": [f"GBM-{y}-{i:03d}" for y in (2019, 2020, 2021) for i in range(5)],
    "a study's year": [f"GBM2020_{i:03d}" for i in range(15)],
    "scans": [f"scan_{i:03d}" for i in range(50)],
    "exams": [f"exam{i}" for i in range(50)],
    "a study's scans": [f"GBM2020_scan_{i:03d}" for i in range(15)],
    "dates of birth": ["1956-03-04", "1956-07-01", "1960-01-02", "1956-03-05"],
    "sex and date of birth": [f"{s}_19{y}-03-04" for s, y in (("M", 56), ("M", 57), ("F", 56))],
    "number and sex": ["GBM_001_M", "GBM_002_F", "GBM_003_M"],
    "UUIDs": [str(uuid.UUID(int=random.Random(i).getrandbits(128))) for i in range(300)],
    "hashes": [hashlib.sha256(str(i).encode()).hexdigest()[:8] for i in range(2000)],
    "bare numbers": ["1", "2", "3", "10"],
    "numbered from 2001": ["2001/0", "2002/0", "2003/0"],
    "kinds": [f"{kind}_{i}" for kind in ("glioma", "meningioma") for i in range(1, 30)],
    "kinds with one patient each": ["astro_1", "oligo_1", "gbm_1"],
    "exams of exams": ["MR001/0", "MR002/0"],
    "letters": ["a", "b"],
    "codes": ["YG_0A1B", "YG_0A1C", "YG_0B2C"],
}


@pytest.mark.parametrize("patients", SESSIONS.values(), ids=SESSIONS)
def test_exams_of_one_patient_are_grouped(patients):
    expected = {frozenset(places) for places in patients if len(places) > 1}
    assert exams_of(flat(patients)) == expected


@pytest.mark.parametrize("places", ORDINARY.values(), ids=ORDINARY)
def test_patients_with_one_exam_stay_apart(places):
    assert exams_of(places) == set()


@pytest.mark.parametrize("name", [*SESSIONS, *ORDINARY])
def test_neither_order_nor_repetition_matters(name):
    places = flat(SESSIONS[name]) if name in SESSIONS else ORDINARY[name]
    shuffled = random.Random(0).sample(places, len(places))
    assert group(shuffled + places[:1]) == group(places)


@pytest.mark.parametrize(
    ("places", "further"),
    [
        (["P01_1", "P02_1", "P03_1"], "P02_2"),
        (["P01_0001", "P02_0001", "P03_0001"], "P02_0002"),
        (["P01_v1", "P02_v1", "P03"], "P03_v2"),
        (["RHUH-0001/0", "RHUH-0002/0"], "RHUH-0001/1"),
        (["P01", "P02", "P03"], "P02/2020-01-01"),
        (["sub-01", "sub-02"], "sub-02/ses-2"),
        (["HGG/P1", "HGG/P2", "LGG/P3"], "LGG/P3_fu"),
        ([f"P{i}" for i in range(30)], "P7b"),
        (["UPENN-GBM-00001_11", "UPENN-GBM-00002_11"], "UPENN-GBM-00001_21"),
    ],
)
def test_a_further_exam_changes_the_name_of_no_other_patient(places, further):
    before, after = group(places).patients, group([*places, further]).patients
    own = after[further]
    for place in places:
        assert after[place] in (before[place], own)
    assert sum(after[place] == own for place in places) == 1


@pytest.mark.parametrize(
    ("places", "doubt"),
    [
        (["site1_001", "site1_002", "site2_001"], "site1_001 and site1_002 are taken as two"),
        (["P01_1", "P01_2", "P02_1"], "P01_1 and P01_2 are taken as one patient"),
        (["train/P01", "test/P01"], "P01 stands below test and train and is taken as one patient"),
        (["HGG/0001", "LGG/0001"], "0001 stands below HGG and LGG and is taken as two patients"),
        (["a/sub-01", "b/sub-01"], "sub-01 stands below a and b and is taken as one patient"),
        (["P01/A8472", "P01/A9911", "P02/A1"], "A8472, A9911 in the folder P01 are taken as exams"),
    ],
)
def test_what_cannot_be_known_is_said(places, doubt):
    assert any(clause.startswith(doubt) for clause in group(places).doubts)


@pytest.mark.parametrize("name", ["LUMIERE", "RHUH", "dates", "BIDS", "UPENN-GBM", "follow-up"])
def test_what_words_and_publishers_say_is_no_doubt(name):
    assert group(flat(SESSIONS[name])).doubts == ()


def test_patients_are_called_after_what_their_exams_share():
    assert group(["HGG/0001", "LGG/0001"]).patients["HGG/0001"] == "HGG-0001"
    assert set(group(["Patient 12/2019 03 04"]).patients.values()) == {"Patient_12"}
    assert set(group(["GBM-P01-1", "GBM-P01-2", "GBM-P02-1"]).patients.values()) == {
        "GBM-P01", "GBM-P02"
    }  # fmt: skip
    assert official("BraTS-MEN-00001-001") == "BraTS-MEN-00001"
    assert official("P01") is None
