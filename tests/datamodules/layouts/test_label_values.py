import pytest

from datamodules.layouts.brats import LAYOUTS
from datamodules.layouts.conventions import (
    BRATS_3,
    BRATS_4,
    CONVENTIONS,
    PEDIATRIC,
    LabelConvention,
)
from datamodules.layouts.label_files import named_convention
from datamodules.layouts.label_values import contradicts, misread, remarks

BY_NAME = LAYOUTS["brats-ped"].convention


@pytest.mark.parametrize(
    ("convention", "values"),
    [(BRATS_4, {1, 2, 3}), (BRATS_4, {1, 3}), (CONVENTIONS["brats-men"], {1, 2, 4})],
)
def test_a_meaning_that_is_proposed_takes_the_values(convention, values):
    found = contradicts(convention, values)
    named = [name for name in CONVENTIONS if f"{name} (" in found]
    assert named
    for name in named:
        assert contradicts(named_convention(name, "data.labels"), values) == ""


def test_4_without_3_is_a_cavity_or_enhancing_and_both_ways_out_work():
    assert "brats2024 if 4 is the resection cavity" in contradicts(BRATS_3, {1, 2, 4})
    for name in ("brats2024", "brats2021"):
        assert contradicts(CONVENTIONS[name], {1, 2, 4}) == ""


@pytest.mark.parametrize("value", [255, 7])
def test_a_mask_of_another_value_is_the_whole_tumour(value):
    found = contradicts(BRATS_4, {value})
    assert f"holds {value}" in found
    assert f"whole: {value}" in found


@pytest.mark.parametrize("value", [-1, 300])
def test_a_value_that_no_file_can_describe_is_not_proposed(value):
    found = contradicts(BRATS_4, {value})
    assert f"holds {value}" in found
    assert "whole" not in found


def test_masks_of_0_and_1_are_never_three_regions():
    cohort = {f"c{n}": (BRATS_4, [1]) for n in range(4)} | {"empty": (BRATS_4, [])}
    problems = misread(cohort)
    assert set(problems) == {"c0", "c1", "c2", "c3"}
    assert "masks of the whole tumour alone" in problems["c0"]
    assert misread({"c0": (BRATS_4, [1])})
    whole = LabelConvention.whole_tumour("masks", 1)
    assert not misread({case_id: (whole, values) for case_id, (_, values) in cohort.items()})


def test_one_such_mask_among_labels_is_a_remark():
    cohort = {"a": (BRATS_4, [1, 2, 4]), "b": (BRATS_4, [1])}
    assert not misread(cohort)
    assert set(remarks(cohort)) == {"b"}
    assert "only 1 (necrosis)" in remarks(cohort)["b"]


def test_oedema_alone_is_possible_in_one_patient_and_not_in_three():
    assert not misread({"a": (BRATS_3, [2])})
    assert misread({case_id: (BRATS_3, [2]) for case_id in "abc"})


def test_a_tool_that_found_oedema_alone_is_scored_if_its_meaning_is_stated():
    masks = {case_id: (BRATS_3, [2]) for case_id in "abc"}
    problem = misread(masks, "--prediction_labels")["a"]
    for advice in ("--regions WT", "whole: 2", "the name of their meaning"):
        assert advice in problem
    assert not misread(masks, "--prediction_labels", stated=True)
    assert misread({"a": (BRATS_3, [1])}, "--prediction_labels", stated=True)


def test_pediatric_labels_of_which_year_is_told_by_oedema_or_asked():
    assert not misread({"a": (BY_NAME, [1, 2, 3]), "b": (BY_NAME, [2, 4])})
    problem = misread({"a": (BY_NAME, [1, 2, 3]), "b": (BY_NAME, [2, 3])})["a"]
    for name in ("brats2023-ped", "brats2024-ped"):
        assert f"{name} (" in problem
        assert not misread({"a": (CONVENTIONS[name], [1, 2, 3])})
    assert PEDIATRIC.same_meaning(BY_NAME)
