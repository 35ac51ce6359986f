import numpy as np
import pytest

from errors import InputError
from evaluation.metrics.postprocessing import Postprocessing, effect_lines

UNIT = (1.0, 1.0, 1.0)


def regions(shape=(12, 12, 40)):
    return np.zeros((3, *shape), bool)


def test_components_below_a_third_of_the_largest_are_dropped():
    masks = regions()
    masks[0, :10, :3, 0] = True  # 30 voxels
    masks[0, :10, 0, 10] = True  # 10: exactly a third stays
    masks[0, :9, 0, 20] = True  # 9: dropped, and the core inside it with it
    masks[1, :9, 0, 20] = True
    masks[1, :10, 0, 0] = True
    rules = Postprocessing(least_core=0, least_enhancing=0)
    after = rules(masks, UNIT)
    assert after[0].sum() == 40
    assert after[1].sum() == 10
    assert masks[0].sum() == 49  # what was given stays


def test_voxels_that_touch_by_a_corner_are_one_component():
    masks = regions()
    masks[0, :3, :3, :3] = True
    masks[0, 3, 3, 3] = True
    assert Postprocessing(least_core=0, least_enhancing=0)(masks, UNIT)[0].sum() == 28


@pytest.mark.parametrize(("core", "expected"), [(9, 100), (10, 10)])
def test_a_tiny_core_is_doubted_and_the_oedema_becomes_necrosis(core, expected):
    masks = regions()
    masks[0, :10, :10, 0] = True
    masks[1, 0, :core, 0] = True
    masks[1, 0, :10, 0] |= core == 10
    after = Postprocessing(least_enhancing=0)(masks, UNIT)
    assert after[1].sum() == expected
    assert after[0].sum() == 100


@pytest.mark.parametrize(("spacing", "kept"), [(UNIT, 0), ((2.0, 2.0, 1.0), 50)])
def test_tiny_enhancing_tumour_becomes_oedema_by_volume_not_by_voxels(spacing, kept):
    masks = regions()
    masks[0, :10, :10, :3] = True
    masks[1, :10, :10, 0] = True
    masks[2, :5, :10, 0] = True  # 50 voxels: 50 or 200 mm3
    after = Postprocessing()(masks, spacing)
    assert after[2].sum() == kept
    assert after[1].sum() == 50 + kept  # oedema is outside the core
    assert after[0].sum() == 300


def test_nothing_stays_nothing():
    assert not Postprocessing()(regions(), UNIT).any()


def test_a_single_region_knows_the_first_rule():
    masks = regions()[:1]
    masks[0, :10, :3, 0] = True
    masks[0, 0, 0, 20] = True
    after = Postprocessing()(masks, UNIT)
    assert after.shape == masks.shape
    assert after.sum() == 30


def test_its_effect_is_told_score_by_score():
    rows = [
        {"case_id": "a", "dice/WT": 0.75, "unprocessed/dice/WT": 0.5, "volume_ml/WT": 1.0},
        {"case_id": "b", "dice/WT": 0.5, "unprocessed/dice/WT": 0.5},
    ]
    (line,) = effect_lines(rows, "unprocessed/")
    assert line.split() == ["dice/WT", "0.5000", "->", "0.6250", "(+0.1250)"]


@pytest.mark.parametrize(
    "rules", [{"component_share": 5}, {"least_core": -1}, {"least_enhancing": float("nan")}]
)
def test_rules_that_mean_nothing_are_refused(rules):
    with pytest.raises(InputError, match=rf"postprocessing\.{next(iter(rules))} is"):
        Postprocessing(**rules)


def test_its_effect_is_that_on_patients_with_both_scores():
    rows = [
        {"dice/ET": float("nan"), "unprocessed/dice/ET": 0.0},
        {"dice/ET": 0.75, "unprocessed/dice/ET": 0.5},
    ]
    (line,) = effect_lines(rows, "unprocessed/")
    assert line.split()[1:] == ["0.5000", "->", "0.7500", "(+0.2500)"]


def test_it_says_what_it_does():
    assert "below 33% of the largest" in str(Postprocessing())
