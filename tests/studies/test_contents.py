"""What a folder of results holds is noted, told and kept."""

from pathlib import Path

import pytest

from errors import InputError
from studies.contents import Contents

MADE_OF = {"rule": "brats", "references": "/r"}


def contents(folder, **changed):
    return Contents(folder / "made.json", "table.csv", {**MADE_OF, **changed})


def test_only_what_was_made_of_something_else_is_told(tmp_path):
    folder = tmp_path / "results"
    assert contents(folder).others() is None
    contents(folder).write()
    assert contents(folder).others() is None
    assert contents(folder, rule="nan").others() == "results of rule brats instead of nan"
    many = {f"s{number}": "1" for number in range(6)}
    assert contents(folder, **many).others() == (
        "results of s0 unset instead of 1, s1 unset instead of 1, s2 unset instead of 1, "
        "s3 unset instead of 1, 2 more"
    )


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_results_that_do_not_say_of_what_they_were_made_are_others(tmp_path, record):
    (tmp_path / "table.csv").touch()
    if record is not None:
        (tmp_path / "made.json").write_text(record)
    held = contents(tmp_path).others()
    assert held == "a table.csv that does not say of what it was made"


def test_a_folder_is_moved_aside_whole_but_never_with_what_is_needed(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    contents(folder).write()
    (folder / "mask.nii.gz").write_bytes(b"mask")
    monkeypatch.chdir(folder)
    for needed in (folder / "case" / "t1.nii.gz", Path.cwd(), Path("case")):
        with pytest.raises(InputError, match="which is still needed"):
            contents(Path()).move_aside([tmp_path, needed])
    aside = contents(folder).move_aside([tmp_path])
    assert not folder.exists()
    assert aside.parent == tmp_path
    assert (aside / "mask.nii.gz").read_bytes() == b"mask"
