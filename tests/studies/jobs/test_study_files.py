"""A study writes into an empty folder or a study's folder, and refuses any other."""

import json

import pytest

from errors import InputError
from outputs import LEDGER, Outputs
from studies.jobs.engine import study_folder
from studies.jobs.study_files import NAMES, claim


@pytest.mark.parametrize("name", NAMES)
def test_files_of_the_user_are_refused_by_their_names(tmp_path, name):
    (tmp_path / name).write_text("mine")
    wrong = pytest.raises(InputError, match=rf"holds {name}, which this program did not write")
    with wrong, study_folder(tmp_path, "benchmark"):
        pass
    assert (tmp_path / name).read_text() == "mine"


def test_a_study_goes_on_in_its_folder_whatever_else_lies_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path)
    Outputs(tmp_path, "--out").settle("plan.json", "{}")
    (tmp_path / "state.json").write_text("{}")
    claim(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_an_earlier_version_left_is_its_own(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "state.json").write_text(json.dumps({"jobs": {}}))
    for name in ("plan.json", "results.csv", "report.html", "tables/table-1.md", "tables/mine.md"):
        (tmp_path / name).write_text("x")
    claim(tmp_path)
    outputs = Outputs(tmp_path, "--out")
    assert set(outputs.listed()) == {
        *("plan.json", "state.json", "results.csv", "report.html", "tables/table-1.md"),
    }
    outputs.settle("tables/table-1.md", "new")
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {
        *("plan.json", "state.json", "results.csv", "report.html", "table-1.md", "mine.md", LEDGER),
    }
