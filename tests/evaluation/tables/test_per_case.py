"""Tables: nothing half-written, floats that survive, the numbers a reader sees."""

import io
import math
from statistics import stdev

import numpy as np
import pytest
from rich.console import Console

from evaluation.metrics.scores import score_case
from evaluation.tables.per_case import (
    mean_scores,
    read_csv,
    score_table,
    slice_table,
    system_table,
    write_csv,
)

DICES = (0.9, 0.7, 0.65)
ROWS = [
    {
        "case_id": f"00{index}",
        **{f"dice/{region}": value for region in ("WT", "TC", "ET")},
        **{f"hd95/{region}": 10.0 * index for region in ("WT", "TC", "ET")},
    }
    for index, value in enumerate(DICES)
]


def render(table):
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(table)
    return buffer.getvalue()


def test_csv_round_trip_is_exact_and_ids_stay_text(tmp_path):
    rows = [{"case_id": "007", "dice/WT": 1 / 3}, {"case_id": "1e3", "dice/WT": 0.1, "late": 5.0}]
    write_csv(rows, tmp_path / "new" / "per_case.csv")
    assert read_csv(tmp_path / "new" / "per_case.csv") == rows


def test_the_rule_nan_stays_a_name_and_a_missing_score_a_number(tmp_path):
    write_csv([{"case_id": "a", "empty_rule": "nan", "dice/ET": float("nan")}], tmp_path / "a.csv")
    (row,) = read_csv(tmp_path / "a.csv")
    assert row["empty_rule"] == "nan"
    assert math.isnan(row["dice/ET"])


def test_csv_that_fails_leaves_the_old_file(tmp_path):
    class Unprintable:
        def __str__(self):
            raise RuntimeError("disk full")

    path = tmp_path / "per_case.csv"
    write_csv(ROWS, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write_csv([*ROWS, {"case_id": Unprintable()}], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["per_case.csv"]


def test_score_table_shows_mean_spread_median_and_who_was_counted():
    text = render(score_table(ROWS, "Test", note="selected on these patients"))
    line = next(line for line in text.splitlines() if line.strip().startswith("ET"))
    assert line.split() == ["ET", "0.750", "±", f"{stdev(DICES):.3f}", "0.700", "10.00", "10.00"]
    for words in ("Test", "3 cases", "373.13", "rule brats", "selected on these patients"):
        assert words in text


def test_score_table_without_distances_or_patients():
    text = render(score_table([{"case_id": "a", "WT": 0.5, "TC": 0.4, "ET": 0.3}]))
    assert "HD95 mean" not in text
    assert next(x for x in text.splitlines() if "mean " in x and "0.4" in x).split() == [
        "mean",
        "0.400",
        "0.400",
    ]
    assert "n/a" in render(score_table([]))


def test_rows_of_score_case_fit_the_table():
    masks = np.zeros((3, 9, 9, 9), dtype=bool)
    masks[:, 2:7, 2:7, 2:7] = True
    shifted = np.roll(masks, 1, axis=1)
    row = {"case_id": "a", **score_case(shifted, masks, (1.0, 1.0, 2.0))}
    text = render(score_table([row]))
    first, second = (line.split() for line in text.splitlines() if line.split()[:1] == ["TC"])
    assert first == ["TC", "0.800", "0.800", "1.00", "1.00"]
    assert second == ["TC", "1.000", "0.800", "0.800", "0.0", "0.800", "1.00"]
    assert "0 / 374 mm" in text


def test_who_has_no_score_is_not_counted_and_that_is_said():
    rows = [
        {"case_id": "a", "empty_rule": "monai", "dice/WT": 0.5, "dice/ET": float("nan")},
        {"case_id": "b", "empty_rule": "monai", "dice/WT": 0.7, "dice/ET": 0.9},
    ]
    text = render(score_table(rows))
    cells = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert cells["WT"][0] == "0.600"
    assert cells["ET"] == ["0.900", "0.900"]
    assert cells["mean"][0] == "0.650"  # of 0.5 and (0.7 + 0.9) / 2
    assert "cases counted: 1 in dice/ET" in text
    assert "(rule monai)" in text
    assert mean_scores(rows) == pytest.approx({"dice/WT": 0.6, "dice/ET": 0.9})
    unscored = [{"case_id": "a", "empty_rule": "nan", "dice/ET": float("nan")}]
    assert math.isnan(mean_scores(unscored)["dice/ET"])
    assert "n/a" in render(score_table(unscored))


SLICED = [
    {"case_id": "a", "slices": 4, "slices/dice/WT": 0.8, "slices/hd95/WT": 4.0, "dice/WT": 0.7},
    {"case_id": "b", "slices": 2, "slices/dice/WT": 0.6, "slices/hd95/WT": 8.0, "dice/WT": 0.9},
]


def test_slice_table_keeps_slices_and_volumes_apart():
    text = render(slice_table(SLICED, "Test"))
    slices = next(line for line in text.splitlines() if "selected slices" in line).split()
    assert slices == [
        "selected",
        "slices",
        "70.00",
        "±",
        "14.14",
        "70.00",
        "6.00",
        "±",
        "2.83",
        "6.00",
    ]
    volumes = next(line for line in text.splitlines() if "whole volumes" in line).split()
    assert volumes[2:] == ["80.00", "±", "14.14", "80.00", "n/a", "n/a"]
    assert "the slice's diagonal" in text
    assert "373.13" in text
    alone = render(slice_table([{"case_id": "a", "slices/dice/WT": 0.5}]))
    assert "whole volumes" not in alone
    assert "373.13" not in alone
    other = " ".join(render(slice_table([{**SLICED[0], "empty_rule": "nan"}])).split())
    assert other.count("Dice none, HD95 none") == 2
    assert "slices empty in both: Dice none" in other
    assert "(rule brats)" not in other
    assert "diagonal" not in other
    left_out = [{**SLICED[0], "slices/hd95/WT": float("nan")}, SLICED[1]]
    assert "cases counted: 1 in slices/hd95/WT" in render(slice_table(left_out))


def test_slice_table_has_a_line_a_region_and_scope():
    regions = {"WT": 0.8, "TC": 0.5, "ET": 0.25}
    row = {f"{scope}dice/{name}": v for scope in ("slices/", "") for name, v in regions.items()}
    lines = [" ".join(line.split()) for line in render(slice_table([row])).splitlines()]
    shown = [line.partition(" n/a")[0] for line in lines if ", " in line and "n/a" in line]
    assert shown == [
        f"{name}, {scope} {100 * value:.2f} {100 * value:.2f}"
        for scope in ("selected slices", "whole volumes")
        for name, value in regions.items()
    ]


def test_means_are_taken_over_patients():
    means = mean_scores(SLICED)
    assert means["slices/dice/WT"] == pytest.approx(0.7)
    assert means["dice/WT"] == pytest.approx(0.8)
    assert "slices" not in means
    assert mean_scores([]) == {}


def test_system_table_gives_exact_counts_and_shares():
    counts = {"all": 97_398_751, "trained": 10_719_891}
    systems = [
        {
            "system": "sam_adapter",
            "parameters": counts,
            "validation": 0.5,
            "test": mean_scores(SLICED),
        },
        {"system": "sam_t2", "parameters": counts, "validation": 0.25, "test": None},
    ]
    lines = render(system_table(systems)).splitlines()
    adapter = next(line for line in lines if "sam_adapter" in line).split()
    assert adapter == [
        "sam_adapter",
        "97,398,751",
        "10,719,891",
        "11.0",
        "%",
        "50.00",
        "70.00",
        "6.00",
        "80.00",
    ]
    assert next(line for line in lines if "sam_t2" in line).split()[-4:] == ["25.00", "-", "-", "-"]


def test_score_table_of_one_region_has_no_other():
    text = render(score_table([{"case_id": "a", "WT": 0.5}]))
    assert "TC" not in text
    assert "ET" not in text
