import pytest

from datamodules.slices.random_split import (
    PAPER_TEST_SHARE,
    as_cases,
    by_case,
    case_of,
    is_by_slice,
    unit,
)


def test_names_of_slices():
    assert unit("p-1", 7) == "p-1#7"
    assert case_of("p-1#7") == case_of("p-1") == "p-1"
    assert by_case(["b#2", "a#10", "a#9"]) == {"a": [9, 10], "b": [2]}
    assert is_by_slice(["a#1"], {"a": "", "a#1": ""})
    assert not is_by_slice(["a", "b#3"], {"a": "", "b#3": ""})


def test_the_papers_proportion():
    assert pytest.approx(245 / 974) == PAPER_TEST_SHARE


def test_for_another_cohort_seen_is_seen():
    stored = {
        "train": ["a#1", "b#2"],
        "val": ["a#3"],
        "test": ["a#2", "c#1"],
        "protocol": "default",
    }
    assert as_cases(stored) == {
        "train": ["a", "b"],
        "val": ["a"],
        "test": ["a", "c"],
        "protocol": "default",
    }
