"""Tables of a benchmark from run folders written by hand: seeds, variants, missing tests."""

import csv
import json

import pytest

from evaluation.tables.per_case import write_csv
from outputs import Outputs
from studies.benchmarks.scores import read_benchmark_scores
from studies.benchmarks.tables import make_tables, patient_curves, show_tables, write_tables
from tests.studies.commands.test_compare import run, scored

TABLES = [
    {"title": "Table 1", "metrics": ["dice", "hd95"], "regions": ["WT", "ET"], "published": True},
    {"title": "Subsets", "metrics": ["dice"], "regions": ["WT"], "variants": ["without-t1"]},
]


def cell(home, system, rows, variant="", seed=0):
    table = home / "per_case.csv"
    if variant:
        table = home / "variants" / variant / "per_case.csv"
        table.parent.mkdir(parents=True)
        write_csv(rows, table)
    return {
        "system": system, "experiment": home.parent.name, "fold": "", "seed": seed,
        "variant": variant, "run": home.name, "folder": str(home), "per_case": str(table),
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Two systems, one of them with two seeds, a variant of each; and one that never finished."""
    fusion = run(tmp_path, "fusion", "f0", scored(0.2), seed=0)
    again = run(tmp_path, "fusion", "f1", scored(0.1), seed=1)
    dynunet = run(tmp_path, "dynunet", "d0", scored(), seed=0)
    cells = [
        cell(fusion, "fusion", None),
        cell(again, "fusion", None, seed=1),
        cell(dynunet, "dynunet", None),
        cell(fusion, "fusion", scored(-0.1), "without-t1"),
        cell(again, "fusion", scored(-0.1), "without-t1", seed=1),
        cell(dynunet, "dynunet", scored(-0.05), "without-t1"),
        {**cell(dynunet, "segresnet", None), "per_case": str(tmp_path / "absent.csv")},
    ]
    folder = tmp_path / "benchmarks" / "b"
    folder.mkdir(parents=True)
    plan = {
        "reference": "fusion", "tables": TABLES, "cells": cells, "n_folds": None,
        "differences": {"data.split_by": {"fusion": "slice", "dynunet": "patient"}},
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def test_seeds_are_averaged_within_a_patient(folder):
    main = make_tables(read_benchmark_scores(folder))[0]
    rows = dict(main.rows)
    assert set(rows) == {"fusion", "dynunet"}
    keys = [column.key for column in main.columns]
    whole = rows["fusion"][keys.index("dice/WT")]
    assert whole.value == pytest.approx(0.5 + 0.03 * 3.5 + 0.15)
    assert whole.summary.n == 8
    assert whole.best
    assert not rows["dynunet"][keys.index("dice/WT")].best
    published = rows["dynunet"][keys.index("published/dice/WT")]
    assert published.value == pytest.approx(0.8623)


def test_differences_that_were_allowed_are_under_the_table(folder):
    main = make_tables(read_benchmark_scores(folder))[0]
    assert any("data.split_by slice (fusion), patient (dynunet)" in note for note in main.footnotes)


def test_the_reference_is_tested_against(folder):
    statistics = make_tables(read_benchmark_scores(folder))[1]
    assert statistics.key == "table-1-dice"
    assert any("against fusion" in note for note in statistics.footnotes)


def subsets_of(tables):
    return next(table for table in tables if table.key == "table-2")


def test_a_way_of_testing_is_a_row_and_the_best_of_the_row_is_bold(folder):
    table = subsets_of(make_tables(read_benchmark_scores(folder)))
    assert [name for name, _ in table.rows] == ["as trained", "without-t1"]
    assert [column.header for column in table.columns] == ["fusion", "dynunet"]
    trained, without = (cells for _, cells in table.rows)
    assert [one.best for one in trained] == [True, False]
    assert [one.best for one in without] == [False, True]
    assert without[0].value == pytest.approx(0.5 + 0.03 * 3.5 - 0.1)


def test_a_way_of_testing_is_tested_against_as_trained(folder):
    tables = make_tables(read_benchmark_scores(folder))
    statistics = next(table for table in tables if table.key == "table-2-dice")
    assert statistics.title == "Subsets: Dice ↑, whole volumes, against as trained"
    keys = [column.key for column in statistics.columns]
    found = {(name, cells[1].text): cells for name, cells in statistics.rows}
    assert list(found) == [
        (system, way) for system in ("fusion", "dynunet") for way in ("as trained", "without-t1")
    ]
    # the mean of two seeds, 0.15 above, against both 0.1 below; 2 tests of 8 patients
    without = found["fusion", "without-t1"]
    assert without[keys.index("difference")].value == pytest.approx(-0.25)
    assert without[keys.index("p_holm")].value == pytest.approx(2 * 2 / 2**8)
    _, marked = subsets_of(tables).rows[1]
    assert [cell.unlike for cell in marked] == [True, True]
    assert not any("tested both ways" in note for note in subsets_of(tables).footnotes)


def test_a_seed_that_was_not_tested_both_ways_makes_no_difference(folder, tmp_path):
    variants = "variants/without-t1/per_case.csv"
    (tmp_path / "runs" / "fusion" / "f1" / variants).unlink()
    write_csv(scored(0.2), tmp_path / "runs" / "fusion" / "f0" / variants)  # as it was trained
    tables = make_tables(read_benchmark_scores(folder))
    table = subsets_of(tables)
    assert [cells[0].value for _, cells in table.rows] == pytest.approx([0.755, 0.805])
    assert table.rows[1][1][0].unlike is False
    ending = "over the runs tested both ways; without fusion seed 1 (not tested without-t1)"
    statistics = next(table for table in tables if table.key == "table-2-dice")
    for one in (table, statistics):
        assert sum(note.endswith(ending) for note in one.footnotes) == 1


def test_folds_are_paired_and_without_a_common_run_nothing_is_compared(folder, tmp_path):
    plan = json.loads((folder / "plan.json").read_text())
    folds = {("fusion", 1, ""): 2, ("fusion", 1, "without-t1"): 2}
    for one in plan["cells"]:
        key = (one["system"], one["seed"], one["variant"])
        one |= {"fold": folds.get(key, 1), "seed": 0}
    (folder / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "runs" / "fusion" / "f0" / "per_case.csv").unlink()
    (tmp_path / "runs" / "fusion" / "f1" / "variants" / "without-t1" / "per_case.csv").unlink()
    table = subsets_of(make_tables(read_benchmark_scores(folder)))
    assert [cell.unlike for cell in table.rows[1][1]] == [None, True]
    assert any(
        note.endswith(
            "without fusion fold 2 seed 0 (not tested without-t1); "
            "fusion fold 1 seed 0 (not tested as trained)"
        )
        for note in table.footnotes
    )


def test_patients_of_systems_that_a_table_leaves_out_are_not_lacking_in_it(folder, tmp_path):
    write_csv(scored(count=12), tmp_path / "runs" / "dynunet" / "d0" / "per_case.csv")
    plan = json.loads((folder / "plan.json").read_text())
    plan["tables"][1]["experiments"] = ["fusion"]
    (folder / "plan.json").write_text(json.dumps(plan))
    notes = subsets_of(make_tables(read_benchmark_scores(folder))).footnotes
    assert any("8 patients" in note for note in notes)
    assert not any("fewer" in note for note in notes)


def test_systems_that_print_alike_are_best_together(folder, tmp_path):
    table = tmp_path / "runs" / "dynunet" / "d0" / "variants" / "without-t1" / "per_case.csv"
    write_csv(scored(-0.1000004), table)
    _, (_, without) = subsets_of(make_tables(read_benchmark_scores(folder))).rows
    assert [one.best for one in without] == [True, True]


def test_patients_that_not_all_were_tested_on_are_left_out_and_counted(folder, tmp_path):
    table = tmp_path / "runs" / "dynunet" / "d0" / "per_case.csv"
    write_csv(scored()[:6], table)
    main = make_tables(read_benchmark_scores(folder))[0]
    assert any("all were tested on; 2 left out" in note for note in main.footnotes)
    keys = [column.key for column in main.columns]
    assert dict(main.rows)["fusion"][keys.index("dice/WT")].summary.n == 6


def test_what_is_lost_or_damaged_leaves_the_rest(folder, tmp_path):
    (tmp_path / "runs" / "dynunet" / "d0" / "per_case.csv").unlink()
    again = tmp_path / "runs" / "fusion" / "f1" / "per_case.csv"
    again.write_text(again.read_text()[:-5])
    scores = read_benchmark_scores(folder)
    assert {(cell["system"], cell["seed"], cell["variant"]) for cell in scores.cells} == {
        ("fusion", 0, ""),
        ("fusion", 0, "without-t1"),
        ("fusion", 1, "without-t1"),
        ("dynunet", 0, "without-t1"),  # its own test is not needed for this one
    }
    names = [name for name, _ in make_tables(scores)[0].rows]
    assert names == ["fusion"]
    (sentence,) = scores.damaged
    assert "f1/per_case.csv is damaged" in sentence


def test_a_table_without_common_patients_says_so_and_the_others_are_made(folder, tmp_path):
    rows = [{**row, "case_id": f"q{number}"} for number, row in enumerate(scored())]
    write_csv(rows, tmp_path / "runs" / "dynunet" / "d0" / "per_case.csv")
    plan = json.loads((folder / "plan.json").read_text())
    alone = {"title": "Alone", "metrics": ["dice"], "experiments": ["fusion"]}
    (folder / "plan.json").write_text(json.dumps({**plan, "tables": [*TABLES, alone]}))
    scores = read_benchmark_scores(folder)
    first, subsets, last = make_tables(scores)
    assert first.rows == []
    assert "No patient was tested by all of fusion, dynunet" in first.footnotes[0]
    assert [name for name, _ in last.rows] == ["fusion"]
    trained, without = (cells for _, cells in subsets.rows)
    assert [cell.value for cell in trained] == [None, None]
    assert without[0].value is not None
    assert all(file.is_file() for file in write_tables(folder, scores, [first, subsets, last]))


def test_a_table_names_what_it_asks_for_and_the_scores_lack(folder):
    plan = json.loads((folder / "plan.json").read_text())
    wanted = [{"title": "A", "metrics": ["dice", "lesion_dice"]}, {"title": "B", "scope": "slices"}]
    (folder / "plan.json").write_text(json.dumps({**plan, "tables": wanted}))
    made = {table.title: table for table in make_tables(read_benchmark_scores(folder))}
    assert "not among the scores: lesion_dice" in made["A"].footnotes
    assert made["B"].footnotes == ["not among the scores of slices: dice, hd95"]


def test_the_rule_of_a_further_test_is_under_its_own_table_alone(folder, tmp_path):
    table = tmp_path / "runs" / "dynunet" / "d0" / "variants" / "without-t1" / "per_case.csv"
    write_csv([{**row, "empty_rule": "nan"} for row in scored(-0.05)], table)
    first, *_ = tables = make_tables(read_benchmark_scores(folder))
    assert not any("rule nan" in note for note in first.footnotes)
    assert any("rule nan" in note for note in subsets_of(tables).footnotes)


def test_a_row_of_ways_of_testing_is_over_the_patients_that_all_its_systems_have(folder, tmp_path):
    table = tmp_path / "runs" / "dynunet" / "d0" / "variants" / "without-t1" / "per_case.csv"
    write_csv(scored(-0.05)[4:], table)
    subsets = subsets_of(make_tables(read_benchmark_scores(folder)))
    _, without = (cells for _, cells in subsets.rows)
    assert without[0].value == pytest.approx(0.5 + 0.03 * 5.5 - 0.1)
    assert without[0].summary.n == without[1].summary.n == 4
    assert any("fewer: without-t1 4" in note for note in subsets.footnotes)
    assert not any("tested both ways" in note for note in subsets.footnotes)


def test_how_many_runs_stand_behind_each_system_is_under_the_table(folder):
    main = make_tables(read_benchmark_scores(folder))[0]
    assert any("runs averaged within a patient: fusion 2, dynunet 1" in n for n in main.footnotes)


def test_another_reference_can_be_named(folder):
    statistics = make_tables(read_benchmark_scores(folder), "dynunet")[1]
    assert any("against dynunet" in note for note in statistics.footnotes)


def test_tables_of_an_earlier_state_of_the_file_are_removed(folder):
    scores = read_benchmark_scores(folder)
    Outputs(folder, "--out").write("tables/table-9.md", "")
    (folder / "tables" / "table-8.md").write_text("mine")
    write_tables(folder, scores, make_tables(scores))
    assert not (folder / "tables" / "table-9.md").exists()
    assert (folder / "tables" / "table-8.md").read_text() == "mine"


def test_what_all_tables_share_is_printed_once_below_them(folder, capsys):
    show_tables(make_tables(read_benchmark_scores(folder)))
    printed = capsys.readouterr().out
    tables, _, shared = printed.partition("All tables\n")
    assert "Table 1" in tables
    assert "Subsets" in tables
    assert "*: differs significantly" in tables
    for text in ("data: embedded phantom", "empty regions:", "data.split_by slice (fusion)"):
        assert (tables.count(text), shared.count(text)) == (0, 1), text


def test_every_table_is_written_three_times_with_a_picture(folder):
    scores = read_benchmark_scores(folder)
    files = write_tables(folder, scores, make_tables(scores))
    names = {file.name for file in files}
    assert {"table-1.md", "table-1.tex", "table-1.csv", "table-1.png"} <= names
    assert {"table-2.md", "table-2.png"} <= names
    assert all(file.is_file() for file in files)
    with (folder / "tables" / "table-1.csv").open(newline="") as handle:
        assert len(list(csv.DictReader(handle))) == 2


def test_systems_with_different_numbers_of_patients_get_a_curve(folder):
    plan = json.loads((folder / "plan.json").read_text())

    def described(*numbers):
        names = ("fusion", "dynunet", "segresnet")
        plan["systems"] = [
            {"system": name, "file": f"{name}.yaml", "options": [f"--data.train_patients={number}"]}
            for name, number in zip(names, numbers, strict=False)
        ]
        plan["systems"][0]["line"] = "ours"
        (folder / "plan.json").write_text(json.dumps(plan))
        return patient_curves(read_benchmark_scores(folder))

    assert described(2, 2) == {}  # one number is no curve
    curve = described(2, 4, 6)["table-1-patients"]
    points, columns = curve.args
    # a system that is not tested yet has no point
    assert [(point.line, point.patients) for point in points] == [("ours", 2), ("dynunet", 4)]
    assert [column.key for column in columns] == ["dice/WT", "dice/ET"]
    scores = read_benchmark_scores(folder)
    names = [file.name for file in write_tables(folder, scores, make_tables(scores))]
    assert "table-1-patients.png" in names
    assert (folder / "tables" / "table-1-patients.png").stat().st_size > 5000
