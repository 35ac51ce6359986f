"""Finding tested runs by their names, reading their tables, and naming them apart."""

import json
from pathlib import Path

import pytest

from errors import InputError
from evaluation.statistics.comparison import patients_of
from evaluation.tables.per_case import write_csv
from studies.scores.provenance import provenance_of
from studies.scores.tested import find_tested, group_systems, with_patients
from tests.studies.commands.test_compare import COHORT, run, scored


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "fusion", "bbbbbb000000", scored(0.01), when="2025-01-01")
    run(tmp_path, "fusion", "cccccc000000", scored(0.1))
    return tmp_path


def names_of(*files):
    return list(group_systems([find_tested(str(file), Path("runs")) for file in files]))


def test_an_experiment_is_found_though_a_folder_is_called_like_it(place):
    (place / "fusion").mkdir()
    (place / "fusion" / "early.py").touch()
    assert find_tested("fusion", Path("runs")).manifest["id"] == "cccccc000000"
    assert find_tested("runs/fusion", Path("elsewhere")).manifest["id"] == "cccccc000000"


def test_other_tests_of_a_run_are_known_as_its_own(place):
    for way in ("without-t1", "external-1234/rule-nan", "variants/without-t2-0123abcd", "data-77"):
        write_csv(scored(), place / "runs" / "fusion" / "cccccc000000" / way / "per_case.csv")
    home = Path("runs/fusion/cccccc000000")
    dropped = find_tested(str(home / "without-t1"), Path("runs"))
    assert (dropped.cohort, dropped.test) == (COHORT, "without-t1")
    assert dropped.split["source"] == "70/10/20, seed 0"
    external = find_tested(str(home / "external-1234" / "rule-nan"), Path("runs"))
    assert (external.cohort, external.test) == ("external-1234", "rule-nan")
    assert names_of(home, home / "without-t1", home / "variants" / "without-t2-0123abcd") == [
        "fusion",
        "fusion, without-t1",
        "fusion, without-t2-0123abcd",
    ]
    settings = [
        find_tested(str(folder), Path("runs")).settings for folder in (home, home / "data-77")
    ]
    assert settings[0] != settings[1]  # they cannot be compared


def test_a_further_test_says_on_whom_and_after_which_rules(place):
    home = place / "runs" / "fusion" / "cccccc000000"
    table = home / "variants" / "elsewhere-0123abcd" / "per_case.csv"
    write_csv(scored(), table)
    described = {"cohort": "abcdef0123456789", "protocol": "external", "postprocessing": "rules"}
    table.with_name("tested.json").write_text(json.dumps(described))
    found = find_tested(str(table), Path("runs"))
    assert (found.cohort, found.settings["protocol"]) == ("external-abcdef01", "external")
    assert provenance_of([found]).remarks[:1] == [
        "post-processed, fusion (elsewhere-0123abcd): rules"
    ]


def test_only_names_given_by_a_person_join_runs(place):
    again = place / "reproductions"
    (place / "runs").rename(again)
    run(place, "fusion", "cccccc000000", scored())
    runs = ["runs/fusion/cccccc000000", "reproductions/fusion/cccccc000000"]
    assert names_of(*runs) == [f"fusion ({name})" for name in runs]
    assert names_of(*(f"ours={name}" for name in runs)) == ["ours"]
    tables = [place / name / "predictions" / "per_case.csv" for name in "ab"]
    for table in tables:
        write_csv(scored(), table)
    assert names_of(*tables) == [f"predictions ({table.parent})" for table in tables]


def test_time_points_are_of_one_patient_though_no_run_says_so(place):
    rows = [{**row, "case_id": f"BraTS-GLI-00001-{n:03}"} for n, row in enumerate(scored(count=2))]
    write_csv(rows, place / "evaluated.csv")
    (tested,) = with_patients([find_tested("evaluated.csv", Path("runs"))])
    assert patients_of(tested.rows) == {"BraTS-GLI-00001"}


def test_scores_of_a_whole_benchmark_are_no_system(place):
    rows = [{**row, "system": name, "run": name} for name in "ab" for row in scored()]
    write_csv(rows, place / "results.csv")
    with pytest.raises(InputError, match="holds several systems"):
        find_tested("results.csv", Path("runs"))
