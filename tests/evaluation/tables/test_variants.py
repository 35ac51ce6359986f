"""Ways of testing against the same system as trained: marks, p values, what is corrected."""

import csv
import io

import pytest
from scipy.stats import wilcoxon

from evaluation.statistics.columns import score_columns
from evaluation.tables.formats import cell_text, to_csv, to_markdown
from evaluation.tables.provenance import Provenance
from evaluation.tables.systems import Cell
from evaluation.tables.variants import (
    compare_variants,
    unpaired_runs,
    variant_statistics,
    variant_table,
)

COLUMNS = score_columns(["dice/WT", "dice/ET"], ["dice"])


def rows(shift, patients=12, **changes):
    """Patients whose score is moved by a shift, by every patient a little otherwise."""
    return [
        {
            "case_id": f"p{case:02d}",
            "dice/WT": 0.5 + 0.01 * case + shift * (1 + 0.1 * case),
            "dice/ET": 0.4 + 0.01 * case + 0.001 * (-1) ** case,
            **changes,
        }
        for case in range(patients)
    ]


def variants(**changes):
    found = {
        "as trained": {"a": rows(0.0), "b": rows(0.1)},
        "without-t1": {"a": rows(-0.2), "b": rows(0.1)},
        "without-t2": {"a": rows(0.05)},
    }
    return {**found, **changes}


def made(tested, names=("a", "b")):
    compared = compare_variants(tested, COLUMNS)
    return variant_table(tested, names, COLUMNS, compared, title="Subsets", notes=["a note"])


def test_every_way_is_tested_against_the_same_system_as_trained():
    found = compare_variants(variants(), COLUMNS)
    assert set(found) == {
        (way, system, f"dice/{region}")
        for way, system in (("without-t1", "a"), ("without-t1", "b"), ("without-t2", "a"))
        for region in ("WT", "ET")
    }
    worse = found["without-t1", "a", "dice/WT"]
    expected = wilcoxon(
        [one["dice/WT"] for one in rows(-0.2)], [one["dice/WT"] for one in rows(0.0)]
    ).pvalue
    assert worse.p == pytest.approx(expected) == pytest.approx(2 / 2**12)
    assert worse.p_holm == pytest.approx(6 * expected)  # six tests of Dice, this the smallest p
    assert worse.effect == -1
    assert worse.significant
    same = found["without-t1", "b", "dice/WT"]
    assert (same.p, same.effect, same.equal) == (1.0, 0.0, 12)


def test_what_differs_is_marked_in_every_format():
    table = made(variants())
    keys = ("aWT", "bWT", "aET", "bET")
    cells = {way: dict(zip(keys, row, strict=True)) for way, row in table.rows}
    marks = {way: [cell.unlike for cell in row.values()] for way, row in cells.items()}
    assert marks == {
        "as trained": [None] * 4,
        "without-t1": [True, False, False, False],
        "without-t2": [True, None, False, None],
    }
    assert cell_text(cells["without-t1"]["aWT"], table.columns[0]).endswith("*")
    assert "\\*" in to_markdown(table)
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [line["a/dice/WT/unlike"] for line in lines] == ["", "1", "1"]
    notes = "\n".join(table.footnotes)
    for words in (
        "a note",
        "*: differs significantly from the same system as trained (Holm-corrected p < 0.05)",
        "Wilcoxon",
        "Holm over all systems, ways of testing and regions of one metric",
    ):
        assert words in notes


def test_too_few_patients_are_told_of():
    few = {way: {name: found[:6] for name, found in s.items()} for way, s in variants().items()}
    table = made(few)
    assert any("with 6 patients and 6 tests corrected together no" in n for n in table.footnotes)
    assert not any(cell.unlike for _, row in table.rows for cell in row)


def test_pairs_are_the_patients_tested_both_ways():
    found = compare_variants(variants(**{"without-t2": {"a": rows(0.05, 9)}}), COLUMNS)
    assert found["without-t2", "a", "dice/WT"].n == 9
    assert found["without-t1", "a", "dice/WT"].n == 12


def test_runs_are_paired_too():
    first, second = rows(0.0, trained="seed 0"), rows(0.3, trained="seed 1")
    tested = {"as trained": {"a": [*first, *second]}, "without-t1": {"a": first}}
    found = compare_variants(tested, COLUMNS)["without-t1", "a", "dice/WT"]
    assert (found.equal, found.n) == (12, 12)
    (sentence,) = unpaired_runs(tested)
    assert sentence.endswith("without a seed 1 (not tested without-t1)")
    tested["as trained"] = {"a": second}
    assert compare_variants(tested, COLUMNS) == {}
    assert unpaired_runs(variants()) == []


def test_of_many_unpaired_runs_the_number_is_told():
    many = [row for seed in range(9) for row in rows(0.0, 1, trained=f"seed {seed}")]
    ways = {f"without-{number}": {"a": many[:1]} for number in range(8)}
    (sentence,) = unpaired_runs({"as trained": {"a": many}, **ways})
    assert "without a 8 runs (not tested without-0); a 8 runs (not tested without-1);" in sentence
    assert sentence.endswith("(not tested without-5) and others")


def test_without_a_test_as_trained_nothing_is_compared():
    alone = variants(**{"as trained": {}})
    table = made(alone)
    assert table.rows[0][1] == [Cell()] * 4
    assert table.rows[1][1][0].value is not None
    assert not any("Wilcoxon" in note for note in table.footnotes)
    assert variant_statistics(alone, ["a", "b"], COLUMNS, {}) == []


def test_statistics_hold_a_row_a_region_system_and_way():
    provenance = Provenance(cohort="phantom")
    compared = compare_variants(variants(), COLUMNS)
    (table,) = variant_statistics(variants(), ["a", "b"], COLUMNS, compared, provenance=provenance)
    keys = [column.key for column in table.columns]
    named = [(name, cells[0].text, cells[1].text) for name, cells in table.rows]
    assert named[:5] == [
        ("a", "WT", "as trained"),
        ("a", "WT", "without-t1"),
        ("a", "WT", "without-t2"),
        ("b", "WT", "as trained"),
        ("b", "WT", "without-t1"),
    ]
    trained, without = (dict(zip(keys, cells, strict=True)) for _, cells in table.rows[:2])
    assert trained["p"].value is None
    assert without["p"].value == pytest.approx(2 / 2**12)
    assert without["p_holm"].value == pytest.approx(12 / 2**12)
    assert without["difference"].value == pytest.approx(-0.2 * 1.55)
    assert table.key == "dice"
    assert table.title == "Dice ↑, whole volumes, against as trained"
    assert table.footnotes[0] == "data: phantom, 12 patients"
    assert any("p against the same system as trained" in note for note in table.footnotes)
