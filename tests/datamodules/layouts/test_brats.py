import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from datamodules.layouts.brats import LAYOUTS, patient_of
from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import MSD, LabelConvention
from datamodules.layouts.label_files import read_convention
from datamodules.patients.find import find_cases, single_case
from errors import InputError

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("layout", "folder", "case_id", "separator", "suffixes", "extension", "patient", "enhancing"),
    [
        ("brats2017", "HGG/", "Brats17_CBICA_AAB_1", "_", OLD, ".nii.gz", "Brats17_CBICA_AAB", 4),
        ("brats2018", "LGG/", "Brats18_2013_0_1", "_", OLD, ".nii.gz", "Brats18_2013_0", 4),
        ("brats2019", "HGG/", "BraTS19_TMC_06290_1", "_", OLD, ".nii", "BraTS19_TMC_06290", 4),
        ("brats2020", "", "BraTS20_Training_001", "_", OLD, ".nii", "BraTS20_Training_001", 4),
        ("brats2021", "", "BraTS2021_00006", "_", OLD, ".nii.gz", "BraTS2021_00006", 4),
        ("brats2023", "", "BraTS-GLI-00001-001", "-", NEW, ".nii.gz", "BraTS-GLI-00001", 3),
        ("brats2024", "a/b/", "BraTS-GLI-02062-100", "-", NEW, ".nii.gz", "BraTS-GLI-02062", 3),
        ("brats2023", "", "BraTS-SSA-00002-000", "-", NEW, ".nii.gz", "BraTS-SSA-00002", 3),
        ("brats-men", "", "BraTS-MEN-00004-001", "-", NEW, ".nii.gz", "BraTS-MEN-00004", 3),
        ("brats-met", "", "BraTS-MET-00086-100", "-", NEW, ".nii.gz", "BraTS-MET-00086", 3),
        ("brats-goat", "", "BraTS-GoAT-00000", "-", NEW, ".nii.gz", "BraTS-GoAT-00000", 3),
        ("brats-ped", "", "BraTS-PED-00001-000", "-", NEW, ".nii.gz", "BraTS-PED-00001", 1),
        ("brats-ped", "", "brats-ped-00001-000", "-", NEW, ".nii.gz", "brats-ped-00001", 1),
    ],
)
def test_every_year_is_recognised(
    tmp_path, layout, folder, case_id, separator, suffixes, extension, patient, enhancing
):
    names = [f"{case_id}{separator}{suffix}{extension}" for suffix in suffixes]
    touch(tmp_path, *[f"{folder}{case_id}/{name}" for name in names])
    (case,) = find_cases(tmp_path)
    assert (case.case_id, case.layout, case.patient_id) == (case_id, layout, patient)
    assert case.convention.enhancing == enhancing
    assert [case.images[m].path.name for m in MODALITIES] == names[:4]
    assert case.label is not None
    assert case.label.name == names[4] == case.prediction_name


def test_time_points_share_a_patient(tmp_path):
    for time in ("000", "001", "100"):
        case_id = f"BraTS-GLI-00001-{time}"
        touch(tmp_path, *[f"{case_id}/{case_id}-{s}.nii.gz" for s in NEW])
    cases = find_cases(tmp_path)
    assert len(cases) == 3
    assert {case.patient_id for case in cases} == {"BraTS-GLI-00001"}
    assert [case.layout for case in cases] == ["brats2023", "brats2023", "brats2024"]


def test_misnamed_label_of_brats_2020_is_accepted_with_a_notice(tmp_path):
    case_id = "BraTS20_Training_355"
    touch(tmp_path, *[f"{case_id}/{case_id}_{s}.nii" for s in OLD[:4]])
    touch(tmp_path, f"{case_id}/W39_1998.09.19_Segm.nii")
    (case,) = find_cases(tmp_path)
    assert case.label is not None
    assert case.label.name == "W39_1998.09.19_Segm.nii"
    assert "W39_1998" in case.notices[0]


def test_missing_modality_and_label_are_left_to_the_checks(tmp_path):
    touch(tmp_path, "BraTS2021_00001/BraTS2021_00001_t1.nii.gz")
    (case,) = find_cases(tmp_path)
    assert set(case.images) == {"t1"}
    assert case.label is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no patient found"),
        (["scan.nii.gz"], "scan.nii.gz"),
        (["BraTS2021_00001_t1.nii.gz", "Brats18_A_1_t1.nii.gz"], "brats2018, brats2021"),
        (["BraTS2021_00001_t1.nii.gz", "x/BraTS2021_00001_t1.nii"], "two files for t1"),
    ],
)
def test_unknown_mixed_and_ambiguous_names_are_refused_in_one_sentence(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=message) as error:
        find_cases(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "fitting"),
    [("brats2023", "brats-ped or brats2023-ped or brats2024-ped"), ("brats-met", "brats-ped")],
)
def test_a_layout_that_contradicts_the_names_is_refused_and_those_it_names_fit(
    tmp_path, given, fitting
):
    touch(tmp_path, *[f"BraTS-PED-00001-000-{s}.nii.gz" for s in NEW])
    with pytest.raises(InputError, match=f"give {fitting}.* or leave data.layout unset") as error:
        find_cases(tmp_path, given)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=f"give {fitting}"):
        single_case({m: tmp_path / f"BraTS-PED-00001-000-{s}.nii.gz" for m, s in CHANGED}, given)
    for layout in ("brats-ped", "brats2023-ped", "brats2024-ped", None):
        assert find_cases(tmp_path, layout)[0].patient_id == "BraTS-PED-00001"
    assert find_cases(tmp_path, "brats2023-ped")[0].convention.enhancing == 3
    assert find_cases(tmp_path, labels="brats2023")[0].convention.enhancing == 3


CHANGED = [("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f")]


def test_a_layout_that_names_otherwise_says_which_one_fits(tmp_path):
    touch(tmp_path, *[f"BraTS2021_00001_{s}.nii.gz" for s in OLD])
    with pytest.raises(InputError, match=r"but as brats2021: leave data\.layout unset"):
        find_cases(tmp_path, "brats2023")
    (case,) = find_cases(tmp_path, labels="brats2023")
    assert (case.layout, case.convention.enhancing) == ("brats2021", 3)


def test_challenges_of_one_meaning_may_lie_together_and_others_not(tmp_path):
    for case_id in ("BraTS-GLI-00001-000", "BraTS-MEN-00001-000", "BraTS-MET-00001-000"):
        touch(tmp_path, *[f"{case_id}-{s}.nii.gz" for s in NEW])
    assert len(find_cases(tmp_path)) == 3
    touch(tmp_path, *[f"BraTS-PED-00001-000-{s}.nii.gz" for s in NEW])
    with pytest.raises(InputError, match="mixes layouts"):
        find_cases(tmp_path)


def test_the_target_volumes_of_radiotherapy_are_refused_by_name(tmp_path):
    touch(tmp_path, "BraTS-MEN-RT-0002-1_t1c.nii.gz", "BraTS-MEN-RT-0002-1_gtv.nii.gz")
    with pytest.raises(InputError, match="BraTS-MEN-RT, which has one image") as error:
        find_cases(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("case_id", "layout", "enhancing"),
    [
        ("BraTS-PED-00001-000", "brats-ped", 1),
        ("BraTS-MEN-00001-000", "brats-men", 3),
        ("BraTS-MET-00001-000", "brats-met", 3),
        ("BraTS-GoAT-00001", "brats-goat", 3),
        ("BraTS-SSA-00001-000", "brats2023", 3),
    ],
)
def test_a_single_patient_is_written_in_the_values_of_its_challenge(
    tmp_path, case_id, layout, enhancing
):
    images = {m: tmp_path / f"{case_id}-{s}.nii.gz" for m, s in CHANGED}
    touch(tmp_path, *[path.name for path in images.values()])
    case = single_case(images)
    assert (case.case_id, case.layout) == (case_id, layout)
    assert case.convention.enhancing == enhancing
    assert single_case(images, labels="msd").convention == MSD


def test_a_given_layout_frees_the_case_name_and_an_unknown_one_is_refused(tmp_path):
    touch(tmp_path, *[f"p1_{s}.nii.gz" for s in OLD])
    (case,) = find_cases(tmp_path, "brats2021")
    assert case.case_id == "p1"
    with pytest.raises(InputError, match="brats2022"):
        find_cases(tmp_path, "brats2022")


def msd(root, **changes):
    touch(root, "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")
    content = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
    }
    (root / "dataset.json").write_text(json.dumps(content | changes))


def test_msd_order_and_labels(tmp_path):
    msd(tmp_path)
    (case,) = find_cases(tmp_path)
    assert {m: case.images[m].channel for m in MODALITIES} == {
        "t1": 1, "t1ce": 2, "t2": 3, "flair": 0
    }  # fmt: skip
    assert (case.layout, case.convention) == ("msd", MSD)
    assert case.prediction_name == "BRATS_001.nii.gz"
    (tmp_path / "dataset.json").unlink()
    assert find_cases(tmp_path) == [case]


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "edema": 2, "necrotic core": 1, "enhancing tumor": 3},
        {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": 3},
    ],
)
def test_nnunet_meaning_comes_from_dataset_json(tmp_path, labels):
    touch(tmp_path, *[f"imagesTr/A_1_{n:04d}.nii.gz" for n in range(4)], "labelsTr/A_1.nii.gz")
    with pytest.raises(InputError, match="channel_names and labels"):
        find_cases(tmp_path)
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": channels, "labels": labels})
    )
    (case,) = find_cases(tmp_path)
    assert case.layout == "nnunet"
    assert case.images["flair"].path.name == "A_1_0003.nii.gz"
    assert case.label is not None
    assert (case.convention.necrosis, case.convention.oedema, case.convention.enhancing) == (
        1, 2, 3
    )  # fmt: skip


def test_nnunet_with_an_unknown_channel_or_label_is_refused(tmp_path):
    touch(tmp_path, *[f"imagesTr/A_{n:04d}.nii.gz" for n in range(4)])
    content = {"channel_names": {"0": "T1", "1": "CT", "2": "T2", "3": "FLAIR"}, "labels": {"a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="none of which is recognised as t1ce:"):
        find_cases(tmp_path)
    content["channel_names"]["1"] = "T1Gd"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="oedema"):
        find_cases(tmp_path)


YAML = """
name: ward
images:
  t1: "{case}/{case}_*_T1.nii.gz"
  t1ce: "{case}/{case}_*_T1gd.nii.gz"
  t2: "{case}/{case}_*_T2.nii.gz"
  flair: {file: "{case}/{case}_all.nii.gz", channel: 3}
label: "{case}/{case}_mask.nii.gz"
labels: {necrosis: 5, oedema: 6, enhancing: 7, background: [9]}
patient: "(.+)_v\\\\d"
prediction: "{case}_auto.nii.gz"
"""


def test_a_layout_described_in_yaml(tmp_path):
    description = tmp_path / "ward.yaml"
    description.write_text(YAML)
    for case in ("p1_v1", "p1_v2"):
        touch(tmp_path, *[f"{case}/{case}_x_{m}.nii.gz" for m in ("T1", "T1gd", "T2")])
        touch(tmp_path, f"{case}/{case}_all.nii.gz", f"{case}/{case}_mask.nii.gz")
    first, second = find_cases(tmp_path, description)
    assert (first.case_id, first.patient_id, second.patient_id) == ("p1_v1", "p1", "p1")
    assert first.images["flair"].channel == 3
    assert first.convention == LabelConvention("ward", 5, 6, 7, (9,))
    assert first.prediction_name == "p1_v1_auto.nii.gz"
    description.write_text(YAML.replace("oedema: 6, ", ""))
    with pytest.raises(InputError, match="oedema"):
        find_cases(tmp_path, description)


@pytest.mark.parametrize(
    "labels",
    [
        "{necrosis: 1, oedema: 2, enhancing: 4, background: 3}",
        "[1, 2, 4]",
        "{necrosis: 1, oedema: 2, enhancing: 4, background: [2]}",
        "{necrosis: 1, oedema: 2, enhancing: 4, background: [[3]]}",
        "{necrosis: 0, oedema: 2, enhancing: 4}",
    ],
)
def test_labels_of_a_description_that_mean_nothing_are_one_sentence(tmp_path, labels):
    described = {"labels": yaml.safe_load(labels)}
    with pytest.raises(InputError, match=r"ward\.yaml needs the key labels with three different"):
        read_convention(described, tmp_path / "ward.yaml")


@pytest.mark.parametrize("convention", [LAYOUTS["brats2018"].convention, MSD])
def test_regions_and_labels_are_inverse(convention):
    labels = np.array([0, convention.necrosis, convention.oedema, convention.enhancing])
    regions = convention.to_regions(labels)
    np.testing.assert_array_equal(regions.sum(1), [3, 2, 1])
    np.testing.assert_array_equal(convention.from_regions(regions), labels)
    assert LabelConvention.from_dict(json.loads(json.dumps(convention.to_dict()))) == convention


def test_regions_that_are_not_nested_are_composed_in_order():
    convention = LAYOUTS["brats2021"].convention
    regions = np.array([[0, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], bool)
    np.testing.assert_array_equal(convention.from_regions(regions), [1, 4, 4, 0])


def test_the_cavity_of_2024_is_background_of_every_region():
    assert not LAYOUTS["brats2024"].convention.to_regions(np.array([4])).any()


def test_single_case_takes_its_name_from_the_files(tmp_path):
    touch(tmp_path, *[f"BraTS2021_00006_{m}.nii.gz" for m in MODALITIES])
    images = {m: str(tmp_path / f"BraTS2021_00006_{m}.nii.gz") for m in MODALITIES}
    case = single_case(images)
    assert (case.case_id, case.layout) == ("BraTS2021_00006", "brats2021")
    assert case.prediction_name == "BraTS2021_00006_seg.nii.gz"
    with pytest.raises(InputError, match="--flair"):
        single_case({m: images[m] for m in MODALITIES[:3]})


def test_patient_of_leaves_unknown_names_alone():
    assert patient_of("Brats18_CBICA_ABC_1") == "Brats18_CBICA_ABC"
    assert patient_of("ward_7") == "ward_7"


def test_layouts_is_light_to_import():
    code = (
        "import sys, datamodules.layouts.brats;"
        "assert not {'torch', 'lightning', 'nibabel', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
