"""No command overwrites a file that it did not write, whatever its name."""

import os
from pathlib import Path

import pytest

from errors import InputError
from outputs import LEDGER, Outputs, lies_in, refuse_among_inputs


@pytest.fixture
def outputs(tmp_path):
    return Outputs(tmp_path / "out", "--output")


def test_what_was_written_may_be_written_again_and_is_listed_before_it_is_there(outputs):
    outputs.check(["a.nii.gz", "sub/b.csv"])
    seen = []

    def killed(file: Path):
        file.write_bytes(b"half")
        seen.append(file)
        raise KeyboardInterrupt

    outputs.write("a.nii.gz", b"one")
    with pytest.raises(KeyboardInterrupt):
        outputs.write("a.nii.gz", killed)
    assert (outputs.folder / "a.nii.gz").read_bytes() == b"one"
    assert not seen[0].exists()
    assert seen[0].name.endswith("a.nii.gz")
    outputs.write("sub/b.csv", "text")
    outputs.write("a.nii.gz", b"two")
    outputs.check(["a.nii.gz", "sub/b.csv"])
    assert {file.name for file in outputs.folder.iterdir()} == {"a.nii.gz", "sub", LEDGER}


def test_a_kill_between_list_and_rename_is_never_refused(outputs, monkeypatch):
    outputs.write("a.nii.gz", b"one")
    with monkeypatch.context() as patched:

        def killed(*_):
            raise KeyboardInterrupt

        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            outputs.write("a.nii.gz", b"two")
    outputs.check(["a.nii.gz"])  # both contents are its own
    with (outputs.folder / LEDGER).open("a") as handle:
        handle.write('\n{"file": "b.nii')  # a disk that was full
    outputs.write("b.nii.gz", b"three")
    outputs.check(["a.nii.gz", "b.nii.gz"])


def test_foreign_and_changed_files_are_refused_and_counted(outputs):
    outputs.folder.mkdir()
    names = [f"{number}.csv" for number in range(7)]
    for name in names:
        (outputs.folder / name).write_text("mine")
    with pytest.raises(
        InputError, match=r"holds 7 files \(0.csv, 1.csv, 2.csv, 3.csv and 3 more\)"
    ):
        outputs.check(names)
    outputs.write("mask.nii.gz", b"mask")
    (outputs.folder / "mask.nii.gz").write_bytes(b"corrected by hand")
    with pytest.raises(InputError, match="that was changed after this program wrote it"):
        outputs.check(["mask.nii.gz"])
    forced = Outputs(outputs.folder, "--output", overwrite=True, can_overwrite=True)
    assert forced.check(["mask.nii.gz"]) == ["mask.nii.gz"]
    (kept,) = forced.make_room(["mask.nii.gz"])
    assert kept.read_bytes() == b"corrected by hand"
    forced.check(["mask.nii.gz"])
    with pytest.raises(InputError, match="did not write"):  # not even with --overwrite
        forced.check(names[:1])


def test_what_an_earlier_version_left_is_moved_only_when_that_is_wished(outputs):
    outputs.folder.mkdir()
    (outputs.folder / "a.nii.gz").write_bytes(b"old")
    with pytest.raises(InputError, match="earlier version of this program"):
        outputs.check(["a.nii.gz"], unlisted=True)
    forced = Outputs(outputs.folder, "--output", overwrite=True, can_overwrite=True)
    assert forced.check(["a.nii.gz"], unlisted=True) == ["a.nii.gz"]


@pytest.mark.parametrize(
    "name", ["../a.nii.gz", "/tmp/a.nii.gz", "sub/../../a.nii.gz", "link/a.csv"]
)
def test_nothing_is_written_outside_of_the_folder(outputs, tmp_path, name):
    outputs.folder.mkdir()
    (outputs.folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="would be written outside of --output"):
        outputs.check(["good.csv", name])


@pytest.mark.parametrize("other", ["a.nii.gz", "A.nii.gz", "./a.nii.gz"])
def test_two_results_never_get_one_name(outputs, other):
    with pytest.raises(InputError, match="two results would be written to"):
        outputs.check(["a.nii.gz", other])


def test_accents_that_are_spelt_in_two_ways_are_one_name(outputs):
    with pytest.raises(InputError, match="two results would be written to"):
        outputs.check(["Mu\u0308ller.nii.gz", "M\u00fcller.nii.gz"])


def test_a_folder_or_a_file_in_the_way_is_refused(outputs):
    (outputs.folder / "mask.nii.gz").mkdir(parents=True)
    (outputs.folder / "sub").write_text("a file")
    for name in ("mask.nii.gz", "sub/a.csv"):
        with pytest.raises(InputError, match="is to be written: move that away"):
            outputs.check([name])


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "linked folder"])
def test_inputs_are_told_by_what_they_are_not_by_what_they_are_called(outputs, tmp_path, way):
    image = tmp_path / "exams" / "t1.nii.gz"
    image.parent.mkdir()
    image.write_bytes(b"image")
    folder = outputs.folder
    if way == "linked folder":
        folder.symlink_to(image.parent)
    else:
        folder.mkdir()
    given = image
    if way == "itself":
        given = folder / "t1.nii.gz"
        given.write_bytes(b"image")
    elif way == "link":
        given = tmp_path / "given.nii.gz"
        given.symlink_to(folder / "t1.nii.gz")
        (folder / "t1.nii.gz").write_bytes(b"image")
    elif way == "hard link":
        os.link(image, folder / "t1.nii.gz")
    with pytest.raises(InputError, match="which is an input: give a folder of its own as --output"):
        outputs.check(["t1.nii.gz"], [given])


def test_a_link_in_place_of_a_result_is_not_followed(outputs, tmp_path):
    (tmp_path / "label.nii.gz").write_bytes(b"label")
    outputs.folder.mkdir()
    (outputs.folder / "a.nii.gz").symlink_to(tmp_path / "label.nii.gz")
    with pytest.raises(InputError, match="did not write"):
        outputs.check(["a.nii.gz"])


def test_only_its_own_files_are_removed_or_written_over_at_the_end(outputs, capsys):
    outputs.write("a.csv", "ours")
    outputs.write("b.csv", "ours")
    (outputs.folder / "b.csv").write_text("mine")
    outputs.remove("a.csv")
    outputs.remove("b.csv")
    outputs.remove("none.csv")
    assert not (outputs.folder / "a.csv").exists()
    outputs.settle("b.csv", "again")
    assert (outputs.folder / "b.csv").read_text() == "again"
    (kept,) = outputs.folder.glob("b.csv.replaced-*")
    assert kept.read_text() == "mine"
    assert str(kept) in capsys.readouterr().out
    outputs.settle("b.csv", "once more")
    assert len(list(outputs.folder.glob("b.csv.replaced-*"))) == 1


def test_results_never_lie_among_the_patients(tmp_path):
    root, patient = tmp_path / "cohort", tmp_path / "cohort" / "p1"
    patient.mkdir(parents=True)
    (patient / "t1.nii.gz").touch()
    (tmp_path / "link").symlink_to(root)
    for folder in (root, patient, root / "new" / "deep", tmp_path / "link" / "new"):
        with pytest.raises(InputError, match="give a folder of its own outside of it"):
            refuse_among_inputs(folder, "--output", root, [root])
    for folder in (patient, root, tmp_path):  # of one patient, given as files
        with pytest.raises(InputError, match="give a folder of its own as --output"):
            refuse_among_inputs(folder, "--output", None, [patient / "t1.nii.gz"])
    refuse_among_inputs(tmp_path / "predictions", "--output", root, [root])
    refuse_among_inputs(patient / "one_patient", "--output", None, [patient / "t1.nii.gz"])
    assert lies_in(tmp_path / "link" / "p1", root)
    assert not lies_in(tmp_path / "cohorts", root)
