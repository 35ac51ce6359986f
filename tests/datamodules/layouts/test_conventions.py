import json
from dataclasses import asdict

import numpy as np
import pytest

from datamodules.layouts.conventions import (
    BRATS_3,
    BRATS_4,
    CONVENTIONS,
    MSD,
    PEDIATRIC,
    REGIONS,
    LabelConvention,
    read_regions,
)
from datamodules.layouts.label_files import named_convention
from errors import InputError

WHOLE = LabelConvention.whole_tumour("masks", 1)


@pytest.mark.parametrize("convention", [BRATS_4, BRATS_3, MSD, PEDIATRIC, WHOLE])
def test_plain_types_lead_back(convention):
    assert LabelConvention.from_dict(json.loads(json.dumps(convention.to_dict()))) == convention


def test_single_values_are_stored_and_identified_as_before_unions():
    old = {"name": "brats2021", "necrosis": 1, "oedema": 2, "enhancing": 4, "background": []}
    assert LabelConvention.from_dict(old) == BRATS_4
    assert BRATS_4.to_dict() == old
    assert LabelConvention("brats2021", (1,), (2,), (4,)) == BRATS_4
    assert str(BRATS_4) == (
        "LabelConvention(name='brats2021', necrosis=1, oedema=2, enhancing=4, background=())"
    )
    assert asdict(BRATS_4) == {**old, "background": ()}


def test_pediatric_core_is_the_union_of_enhancing_non_enhancing_and_cystic():
    regions = PEDIATRIC.to_regions(np.array([0, 1, 2, 3, 4]))
    whole, core, enhancing = regions.astype(int).tolist()
    assert (whole, core, enhancing) == ([0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(PEDIATRIC.from_regions(regions), [0, 1, 2, 2, 4])
    assert PEDIATRIC.values == {0, 1, 2, 3, 4}


def test_a_mask_of_the_whole_tumour_tells_one_region():
    assert WHOLE.regions == ("WT",)
    assert BRATS_4.regions == ("WT", "TC", "ET")
    np.testing.assert_array_equal(
        WHOLE.to_regions(np.array([0, 1])), [[False, True], [False] * 2, [False] * 2]
    )
    regions = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    np.testing.assert_array_equal(WHOLE.from_regions(regions), [0, 1, 1])
    assert WHOLE.describe() == "masks (whole tumour 1)"


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_named_convention_has_three_disjoint_classes(name):
    convention = CONVENTIONS[name]
    listed = [v for kind in ("necrosis", "oedema", "enhancing") for v in convention.of(kind)]
    assert len({*listed, *convention.background}) == len(listed) + len(convention.background)
    assert named_convention(name, "data.labels") is convention


def test_values_from_a_file(tmp_path):
    file = tmp_path / "ours.yaml"
    file.write_text("necrosis: [2, 3]\noedema: 4\nenhancing: 1\n")
    assert named_convention(str(file), "--labels").same_meaning(PEDIATRIC)
    file.write_text("name: theirs\nlabels: {whole: [1, 2], background: [3]}\n")
    assert named_convention(str(file), "--labels").meaning == "whole tumour 1 2, background 3"
    with pytest.raises(InputError, match="--labels nowhere is neither a file nor one of"):
        named_convention("nowhere", "--labels")


@pytest.mark.parametrize("given", ["WT,TC,ET", " WT, TC ,ET", ["WT", "TC", "ET"]])
def test_regions_are_read_from_words_and_lists(given):
    assert read_regions(given, "data.regions") == REGIONS
    assert read_regions("WT", "data.regions") == ("WT",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "names no region"),
        ([], "names no region"),
        ("WT,XY", "unknown region XY"),
        ("wt", "unknown region wt"),
        ("WT,WT", "has WT twice"),
        ("ET,TC,WT", "in another order .* expected WT,TC,ET"),
        ("WT,TC", "a selection that label maps cannot hold"),
        ("ET", "a selection that label maps cannot hold"),
    ],
)
def test_wrong_regions_are_one_sentence(given, expected):
    with pytest.raises(InputError, match=f"data.regions .*{expected}") as error:
        read_regions(given, "data.regions")
    assert "\n" not in str(error.value)
