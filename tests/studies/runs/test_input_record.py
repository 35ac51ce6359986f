"""The inputs of a folder of results are recorded and compared, and the results kept."""

from pathlib import Path

import pytest

from errors import InputError
from outputs import LEDGER, Outputs
from studies.runs.input_record import InputRecord, check_writable

INPUTS = {"rule": "brats", "references": "/r"}


def input_record(folder, **changed):
    return InputRecord(folder / "made.json", "table.csv", {**INPUTS, **changed})


def test_only_what_was_made_of_something_else_is_told(tmp_path):
    folder = tmp_path / "results"
    assert input_record(folder).others() is None
    input_record(folder).write()
    assert input_record(folder).others() is None
    assert input_record(folder, rule="nan").others() == "results of rule brats instead of nan"
    many = {f"s{number}": "1" for number in range(6)}
    assert input_record(folder, **many).others() == (
        "results of s0 unset instead of 1, s1 unset instead of 1, s2 unset instead of 1, "
        "s3 unset instead of 1, 2 more"
    )


def test_a_setting_that_an_older_version_did_not_know_was_unset_there(tmp_path):
    input_record(tmp_path).write()
    assert input_record(tmp_path, labels="None").others() is None
    assert input_record(tmp_path, labels="msd").others() == "results of labels unset instead of msd"


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_results_that_do_not_say_of_what_they_were_made_are_others(tmp_path, record):
    (tmp_path / "table.csv").touch()
    if record is not None:
        (tmp_path / "made.json").write_text(record)
    held = input_record(tmp_path).others()
    assert held == "a table.csv that does not say of what it was made"


@pytest.mark.parametrize("name", ["table.csv", "made.json"])
def test_overwriting_is_offered_for_what_this_program_wrote_alone(tmp_path, name):
    (tmp_path / name).write_text('{"colour": "blue"}')
    with pytest.raises(InputError) as caught:
        input_record(tmp_path).refuse_others("--out", "replace that")
    assert str(caught.value).endswith("give another --out, or move that away.")
    Outputs(tmp_path, "--out").adopt([name])
    with pytest.raises(InputError, match="or --overwrite to replace that"):
        input_record(tmp_path).refuse_others("--out", "replace that")


def test_a_folder_is_moved_aside_whole_but_never_with_what_is_needed(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    input_record(folder).write()
    Outputs(folder, "--output").write("mask.nii.gz", b"mask")
    monkeypatch.chdir(folder)
    for needed in (folder / "case" / "t1.nii.gz", Path.cwd(), Path("case")):
        with pytest.raises(InputError, match="which is still needed"):
            input_record(Path()).move_aside([tmp_path, needed])
    aside = input_record(folder).move_aside([tmp_path])
    assert list(folder.iterdir()) == []
    assert aside.parent == tmp_path
    assert (aside / "mask.nii.gz").read_bytes() == b"mask"


def test_files_of_the_user_stay_where_they_are_when_the_results_are_moved(tmp_path):
    folder = tmp_path / "results"
    input_record(folder).write()
    Outputs(folder, "--output").write("deep/mask.nii.gz", b"mask")
    Outputs(folder, "--output").write("other.nii.gz", b"mask")
    (folder / "other.nii.gz").write_bytes(b"corrected by hand")
    (folder / "notes.txt").write_text("mine")
    (folder / "old.nii.gz").write_bytes(b"of an earlier version")
    aside = input_record(folder).move_aside([], ["old.nii.gz"])
    assert (folder / "notes.txt").read_text() == "mine"
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert left == {"notes.txt", LEDGER}
    moved = {str(file.relative_to(aside)) for file in aside.rglob("*") if file.is_file()}
    assert moved == {"made.json", "deep/mask.nii.gz", "other.nii.gz", "old.nii.gz"}
    assert (aside / "other.nii.gz").read_bytes() == b"corrected by hand"


def test_a_record_that_cannot_be_read_is_told_as_that(tmp_path):
    (tmp_path / "made.json").mkdir()
    with pytest.raises(InputError, match=r"made.json cannot be read \(Is a directory\)"):
        input_record(tmp_path).others()


def test_a_link_to_a_folder_leads_to_an_empty_one_after_the_move(tmp_path):
    folder, link = tmp_path / "results", tmp_path / "link"
    input_record(folder).write()
    link.symlink_to(folder)
    aside = input_record(link).move_aside([])
    assert aside.name.startswith("results.replaced-")
    assert (aside / "made.json").is_file()
    link.mkdir(exist_ok=True)  # as the writer of the results does
    assert list(link.iterdir()) == []


def test_a_folder_that_cannot_be_renamed_is_told(tmp_path, monkeypatch):
    def busy(folder):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("studies.runs.input_record.set_aside", busy)
    with pytest.raises(InputError, match=r"aside \(Device or resource busy\): give another --out"):
        input_record(tmp_path).move_aside([])


def test_a_folder_that_cannot_be_written_is_told_by_its_option(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder", "--out it")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^--out .*/file cannot be written \(Not a directory\)"):
        check_writable(tmp_path / "file", f"--out {tmp_path / 'file'}")

    def denied(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\): give another"):
        check_writable(tmp_path / "new", "--output it")
