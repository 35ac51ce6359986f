"""Empty regions: every preset against MONAI itself, or the values the other tools give by hand."""

import numpy as np
import pytest
import torch
from monai.metrics import (
    ConfusionMatrixMetric,
    DiceMetric,
    HausdorffDistanceMetric,
    SurfaceDiceMetric,
)

from errors import InputError
from evaluation.metrics.scores import BRATS, EMPTY_RULES, METRICS, rule_named, score_case

FULL, EMPTY = np.zeros((6, 6, 6), dtype=bool), np.zeros((6, 6, 6), dtype=bool)
FULL[:, :5, 1:] = True  # 150 voxels, a lesion that counts
PAIRS = {"both": (EMPTY, EMPTY), "reference": (FULL, EMPTY), "prediction": (EMPTY, FULL)}
NAN = float("nan")


def scores(pair, rule):
    row = score_case(pair[0][None], pair[1][None], (1.0, 1.0, 1.0), ("WT",), EMPTY_RULES[rule])
    assert row["empty_rule"] == rule
    return [row[f"{metric}/WT"] for metric in METRICS if metric != "volume_error_ml"]


# dice, hd95, nsd, sensitivity, precision, lesion_dice, lesion_hd95
VALUES = {
    # the challenge: 373.13 mm, for lesions 374 mm
    ("brats", "both"): [1, 0, 1, 1, 1, 1, 0],
    ("brats", "reference"): [0, 373.13, 0, 0, 0, 0, 374],
    ("brats", "prediction"): [0, 373.13, 0, 0, 0, 0, 374],
    # 0/0 and the infinite have no value
    ("nan", "both"): [NAN] * 7,
    ("nan", "reference"): [0, NAN, 0, NAN, 0, 0, 374],
    ("nan", "prediction"): [0, NAN, 0, 0, NAN, 0, 374],
    # nnU-Net: version 2 gives no Dice where tp + fp + fn is 0; version 1 no recall without a
    # reference, no precision without a prediction, no Hausdorff distance without either
    ("nnunet", "both"): [NAN] * 7,
    ("nnunet", "reference"): [0, NAN, 0, NAN, 0, 0, 374],
    ("nnunet", "prediction"): [0, NAN, 0, 0, NAN, 0, 374],
}


@pytest.mark.parametrize(("rule", "empty"), VALUES)
def test_values_of_a_preset(rule, empty):
    assert scores(PAIRS[empty], rule) == pytest.approx(VALUES[rule, empty], nan_ok=True)


def monai(pair):
    """Scores of MONAI's metric classes with their defaults, one channel, HD95."""
    prediction, reference = (torch.from_numpy(mask)[None, None].float() for mask in pair)
    ratios = []
    for name in ("sensitivity", "precision"):
        metric = ConfusionMatrixMetric(metric_name=name)
        metric(prediction, reference)
        metric.reduction = "none"
        ratios.append(metric.aggregate()[0])
    surface = SurfaceDiceMetric([1.0], include_background=True, use_subvoxels=True)
    distance = HausdorffDistanceMetric(include_background=True, percentile=95)
    measured = [
        DiceMetric()(prediction, reference),
        distance(prediction, reference),
        surface(prediction, reference),
        *ratios,
    ]
    return [float(value) for value in measured]


@pytest.mark.filterwarnings("ignore")  # MONAI warns of every empty mask
@pytest.mark.parametrize("empty", PAIRS)
def test_preset_monai_is_what_monai_does(empty):
    assert scores(PAIRS[empty], "monai")[:5] == pytest.approx(monai(PAIRS[empty]), nan_ok=True)


@pytest.mark.parametrize("rule", EMPTY_RULES)
def test_a_rule_touches_nothing_but_empty_regions(rule):
    shifted = np.roll(FULL, 1, axis=2)
    assert scores((FULL, shifted), rule) == scores((FULL, shifted), "brats")
    row = score_case(FULL[None], EMPTY[None], (1.0, 1.0, 2.0), ("WT",), EMPTY_RULES[rule])
    assert row["volume_error_ml/WT"] == pytest.approx(0.3)


def test_rules_are_found_and_told_by_name():
    assert rule_named("brats") is BRATS
    assert str(BRATS) == (
        "empty in both: Dice 1, HD95 0 mm; in one: Dice 0, HD95 373.13 mm (rule brats)"
    )
    assert str(rule_named("monai")) == (
        "empty in both: Dice none, HD95 none; in the reference: Dice none, HD95 none; "
        "in the prediction: Dice 0, HD95 none (rule monai)"
    )
    with pytest.raises(InputError, match="nnunet"):
        rule_named("median")
