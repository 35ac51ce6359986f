"""Exams grouped by patient: notices, `data.patient`, and splits that keep patients whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from datamodules.exams.sequence_names import find_exams
from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.conventions import CANONICAL
from datamodules.patients.find import find_cases
from datamodules.patients.grouping import one_person, regroup
from datamodules.registration.command import parse
from datamodules.registration.folder import find_registered, rename
from datamodules.splits import make_split
from errors import InputError
from studies.commands.check import main
from tests.datamodules.tiny_patients import make_volumes, save


def case(place, patient="", stated=False):
    name = place.replace("/", "-")
    return CaseFiles(
        name,
        patient or name,
        {},
        None,
        CANONICAL,
        "exam",
        "x.nii.gz",
        place="" if stated else place,
    )


def patients(cases):
    return {c.case_id: c.patient_id for c in cases}


def test_a_grouping_is_shown_with_an_example_and_how_to_change_it():
    found, notices = regroup([case("P1/2019-01-01"), case("P1/2020-01-01"), case("P2/2019-01-01")])
    assert set(patients(found).values()) == {"P1", "P2"}
    (notice,) = notices
    for part in ("3 exams are taken as 2 patients", "P1 with P1-2019-01-01, P1-2020-01-01",
                 "--data.patient REGEX", "'P1/2019-01-01'"):  # fmt: skip
        assert part in notice
    assert "unsure" not in notice
    assert "\n" not in notice


def test_one_exam_a_patient_needs_no_word_unless_it_is_unsure():
    assert regroup([case("P1"), case("P2")])[1] == []
    (notice,) = regroup([case("site1_001"), case("site1_002"), case("site2_001")])[1]
    assert "3 exams are taken as 3 patients; unsure: site1_001 and site1_002" in notice


def test_stated_patients_stay():
    cases = [case("P1_1", "A", stated=True), case("P1_2", "B", stated=True), case("P1_v3")]
    assert list(patients(regroup(cases)[0]).values()) == ["A", "B", "P1"]


def test_a_pattern_gives_the_patients_instead():
    cases = [case("site1_001"), case("site1_002"), case("site2_001")]
    found, (notice,) = regroup(cases, r"^(site\d)")
    assert list(patients(found).values()) == ["site1", "site1", "site2"]
    assert "3 exams are taken as 2 patients" in notice
    assert "by data.patient" in notice
    assert patients(regroup([case("P1_v1"), case("P1_v2")], "(.+)")[0]) == {
        "P1_v1": "P1_v1", "P1_v2": "P1_v2"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is no regular expression"),
        ("P1", "has 0 groups"),
        ("(P)(1)", "has 2 groups"),
        ("(P1)", "finds no patient in 1 of 2 cases, such as 'P2/a'"),
        ("P1(x?)|P2(?:y)", "finds no patient in 2 of 2"),
    ],
)
def test_a_pattern_that_finds_no_patient_is_one_sentence(pattern, message):
    with pytest.raises(InputError) as caught:
        regroup([case("P1/a"), case("P2/a")], pattern)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [BraTSPatchDataModule, RegisteredSliceDataModule])
def test_a_bad_pattern_is_refused_before_anything_is_read(module):
    with pytest.raises(InputError, match="has 0 groups"):
        module(root="/nowhere", patient="P1")


def test_patients_with_the_same_image_are_one():
    digests = {"a": {"t1": "x", "t2": "1"}, "b": {"t1": "y", "t2": "1"}, "c": {"t1": "y"}, "d": {}}
    joined, notices = one_person({"a": "A", "b": "B", "c": "C", "d": "D"}, digests)
    assert joined == {"a": "A", "b": "A", "c": "A", "d": "D"}
    assert len(notices) == 2
    assert "same t2" in "".join(notices)
    assert one_person({"a": "A", "b": "A"}, {"a": {"t1": "x"}, "b": {"t1": "x"}})[1] == []


SESSIONS = [(subject, session) for subject in range(1, 7) for session in (1, 2)]


@pytest.fixture(scope="module")
def bids(tmp_path_factory) -> Path:
    """A BIDS data set of six patients with two sessions each."""
    root = tmp_path_factory.mktemp("bids")
    names = {"t1": "T1w", "t1ce": "ce-gd_T1w", "t2": "T2w", "flair": "FLAIR"}
    for seed, (subject, session) in enumerate(SESSIONS):
        images, label = make_volumes(seed, enhancing=3)
        stem = f"sub-{subject:02d}/ses-{session}/anat/sub-{subject:02d}_ses-{session}"
        for modality, suffix in names.items():
            save(images[modality], root / f"{stem}_{suffix}.nii.gz")
        save(label, root / "derivatives" / "manual" / f"{stem}_dseg.nii.gz")
    return root


@pytest.fixture
def module(bids, tmp_path_factory):
    def make(kind, **changes):
        size = {"slice_size": 32, "layout": "bids"} if kind is RegisteredSliceDataModule else {}
        cache = tmp_path_factory.getbasetemp() / "bids-cache"
        return kind(
            **{"root": str(bids), "cache_dir": str(cache), "num_workers": 0, **size, **changes}
        )

    return make


def test_labelled_exams_on_one_grid_are_taken_as_they_lie(module):
    data = module(RegisteredSliceDataModule, layout=None)
    data.setup("fit")
    assert len(data.cases) == 12
    assert all(any("taken as registered" in n for n in c.notices) for c in data.cases.values())
    assert len({case.patient_id for case in data.cases.values()}) == 6


@pytest.mark.parametrize("kind", [BraTSPatchDataModule, RegisteredSliceDataModule])
@pytest.mark.parametrize("split", [{}, {"protocol": "paper"}, {"n_folds": 3, "fold": 1}])
def test_no_person_is_on_both_sides(module, kind, split):
    data = module(kind, **split)
    data.setup("fit")
    people = [{i.split("_")[0] for i in part} for part in (data.split.train, data.split.test)]
    assert not people[0] & people[1]
    assert {len(part) % 2 for part in (data.split.train, data.split.test)} == {0}
    assert sum("12 exams are taken as 6 patients" in notice for notice in data.notices) == 1


def test_a_pattern_changes_the_split_and_its_absence_no_identity(module):
    plain, given = module(BraTSPatchDataModule), module(BraTSPatchDataModule, patient=r"sub-0(\d)")
    for data in (plain, given):
        data.setup("fit")
    assert "patient" not in plain.identity()
    assert plain.fingerprint() != given.fingerprint()
    assert {c.patient_id for c in given.cases.values()} == set("123456")
    every = module(BraTSPatchDataModule, patient=r"(sub-\d+/ses-\d)")
    every.setup("fit")
    assert len(set(every.split.patients.values())) == 12


def test_too_few_patients_are_explained_by_their_grouping(module):
    data = module(BraTSPatchDataModule, patient="(sub)-")
    with pytest.raises(InputError, match=r"cannot be split.*12 exams are taken as 1 patient"):
        data.setup("fit")


def test_a_split_file_that_tears_a_patient_is_refused_with_the_grouping(module, tmp_path):
    cases = [f"sub-{subject:02d}_ses-{session}" for subject, session in SESSIONS]
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": cases[:7], "val": cases[8:10], "test": [cases[7]]}))
    with pytest.raises(InputError, match=r"sub-04 both in train and in test.*--data\.patient"):
        module(BraTSPatchDataModule, split_file=str(file)).setup("fit")


def test_patients_with_equal_images_stay_together(module, monkeypatch):
    data = module(BraTSPatchDataModule)
    shared = property(lambda self: {"t1": "same"} if self.case_id[4:6] in ("01", "05") else {})
    monkeypatch.setattr("datamodules.cases.case.PreparedCase.modality_hashes", shared)
    data.setup("fit")
    assert data.cases["sub-05_ses-1"].patient_id == "sub-01"
    assert any("the same t1" in notice for notice in data.notices)


def test_check_shows_patients(bids, capsys):
    assert main(["--data.root", str(bids)]) == 0
    out = capsys.readouterr().out
    assert "patient" in out.splitlines()[1]
    assert "12 exams are taken as 6 patients" in out
    assert main(["--data.root", str(bids), "--data.patient", r"(sub-\d+/ses-\d)"]) == 0
    out = capsys.readouterr().out
    assert "exams are taken" not in out
    assert "sub-01/ses-1" in out
    with pytest.raises(InputError, match="finds no patient in 12 of 12"):
        main(["--data.root", str(bids), "--data.patient", "(P1)"])


def report(folder, case_id, patient_id, **more):
    folder.mkdir(parents=True)
    (folder / f"{case_id}_t2.nii.gz").touch()
    content = {
        "case_id": case_id, "patient_id": patient_id, "files": ["t2"], "label_drawn_on": None,
        "convention": CANONICAL.to_dict(), "notices": [], "flags": [], "accepted": False, **more
    }  # fmt: skip
    (folder / "registration.json").write_text(json.dumps(content))
    return content


def test_registered_exams_keep_their_patients(tmp_path):
    for case_id in ("RHUH-0001-0", "RHUH-0001-1"):  # of before places were written
        report(tmp_path / case_id, case_id, case_id)
    report(tmp_path / "A1", "A1", "P9", place="")  # given by --data.patient
    report(tmp_path / "Z-b", "Z-b", "P7", place="P7/b")
    assert patients(find_registered(tmp_path)) == {
        "RHUH-0001-0": "RHUH-0001", "RHUH-0001-1": "RHUH-0001", "A1": "P9", "Z-b": "P7"
    }  # fmt: skip


def test_a_registered_exam_follows_a_new_grouping_without_being_registered_again(tmp_path):
    content = report(tmp_path / "A1", "A1", "A1", place="A1")
    exam = replace(case("A1", stated=True), patient_id="P9")
    assert rename(tmp_path / "A1", content, exam)["patient_id"] == "P9"
    assert patients(find_registered(tmp_path)) == {"A1": "P9"}


def test_prepare_takes_a_pattern():
    options = parse(["--data.root", "x", "--out", "y", "--data.patient", "(P1)"])
    assert options.patient == "(P1)"


@pytest.mark.parametrize(
    "folders",
    [
        ["sub-01/ses-01/anat", "sub-01/ses-02/anat", "sub-02/ses-01/anat", "sub-03/ses-01/anat"],
        ["RHUH-0001/0", "RHUH-0001/1", "RHUH-0002/0", "RHUH-0003/0"],
        [
            "BraTS-MEN-00001-000",
            "BraTS-MEN-00001-001",
            "BraTS-MEN-00002-000",
            "BraTS-MEN-00003-000",
        ],
    ],
)
def test_sessions_of_exams_are_one_patient_in_every_split(tmp_path, folders):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for name in ("T1w", "ce-gd_T1w", "T2w", "FLAIR"):
            (tmp_path / folder / f"{name}.nii.gz").touch()
    exams = find_exams(tmp_path)
    found = patients(exams)
    assert len(set(found.values())) == 3
    one = [exam.case_id for exam in exams if exam.patient_id == exams[0].patient_id]
    assert len(one) == 2
    for seed in range(10):
        split = make_split(found, seed=seed)
        assert sum(set(one) <= set(part) for part in (split.train, split.val, split.test)) == 1


@pytest.mark.parametrize("kind", ["nnunet", "given", "described"])
def test_sessions_of_named_cases_are_one_patient(tmp_path, kind):
    cases, layout = ["case01_tp1", "case01_tp2", "case02_tp1"], None
    names = {
        "nnunet": "imagesTr/{}_{}.nii.gz",
        "given": "{}_{}.nii.gz",
        "described": "{}/{}.nii.gz",
    }
    ends = [f"{n:04d}" for n in range(4)] if kind == "nnunet" else ["t1", "t1ce", "t2", "flair"]
    for name in (names[kind].format(c, e) for c in cases for e in ends):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if kind == "nnunet":
        channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
        labels = {"background": 0, "edema": 2, "necrosis": 1, "enhancing tumor": 3}
        content = {"channel_names": channels, "labels": labels}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
    elif kind == "given":
        layout = "brats2021"
    else:
        layout = tmp_path / "ward.yaml"
        images = "".join(f"  {m}: '{{case}}/{m}.nii.gz'\n" for m in ends)
        layout.write_text(f"images:\n{images}labels: {{necrosis: 1, oedema: 2, enhancing: 3}}\n")
    assert patients(find_cases(tmp_path, layout)) == dict(
        zip(cases, ["case01", "case01", "case02"], strict=True)
    )


def test_check_shows_patients_of_raw_exams_and_of_registered_ones(tmp_path, capsys):
    names = {"t1": "T1", "t1ce": "T1_KM", "t2": "T2", "flair": "FLAIR"}
    for seed, folder in enumerate(("P1/2019-03-04", "P1/2020-03-04", "P2/2019-03-04")):
        images, _ = make_volumes(seed)
        for modality, array in images.items():
            save(array, tmp_path / "raw" / folder / f"{names[modality]}.nii.gz")
        report(tmp_path / "out" / f"E{seed}", f"E{seed}", folder, place=folder)
        save(images["t2"], tmp_path / "out" / f"E{seed}" / f"E{seed}_t2.nii.gz")
    assert main(["--data.root", str(tmp_path / "raw")]) == 0
    out = capsys.readouterr().out
    assert "3 exams are taken as 2 patients, such as P1 with P1-2019-03-04, P1-2020-03-04" in out
    assert "3 cases (exam), 0 of them bad" in out
    assert main(["--data.root", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "3 exams are taken as 2 patients, such as P1 with E0, E1" in out
    assert "modality flair is missing" in out
    save(images["t2"], tmp_path / "raw" / "P2" / "2019-03-04" / "T2_x.nii.gz")
    assert main(["--data.root", str(tmp_path / "raw")]) == 1
    assert "two files for t2" in capsys.readouterr().out


def test_check_of_no_patients_stays_one_sentence(tmp_path):
    for name in ("scan.nii.gz", "x_t1.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="no patient found below data"):
        main(["--data.root", str(tmp_path)])


def test_participants_name_people_of_folders_that_are_no_bids_files(tmp_path):
    for subject in ("sub-01", "sub-02"):
        for name in ("T1w", "T2w"):
            (tmp_path / subject / "anat").mkdir(parents=True, exist_ok=True)
            (tmp_path / subject / "anat" / f"{name}.nii.gz").touch()
    (tmp_path / "participants.tsv").write_text("participant_id\tpatient_id\nsub-01\tA\nsub-02\tA\n")
    assert set(patients(find_exams(tmp_path)).values()) == {"A"}
