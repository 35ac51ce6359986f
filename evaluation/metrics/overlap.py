"""Metrics that count voxels: Dice, sensitivity, precision, the error of the volume."""

from collections.abc import Sequence

import numpy as np

from evaluation.metrics.empty_rules import BRATS, EmptyRule
from evaluation.metrics.masks import Mask, check_pair


def dice(prediction: Mask, reference: Mask, rule: EmptyRule = BRATS) -> float:
    """Return 2 |P and R| / (|P| + |R|) of one region.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        rule: decides when a mask is empty.

    Raises:
        ValueError: if shapes differ or a mask is not boolean.
    """
    predicted, present, common = _count(prediction, reference)
    if not predicted or not present:
        return rule.dice.value(predicted, present)
    return 2 * common / (predicted + present)


def sensitivity(prediction: Mask, reference: Mask, rule: EmptyRule = BRATS) -> float:
    """Return |P and R| / |R| of one region: the share of the reference that was found.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        rule: decides when a mask is empty.

    Raises:
        ValueError: if shapes differ or a mask is not boolean.
    """
    predicted, present, common = _count(prediction, reference)
    if not predicted or not present:
        return rule.sensitivity.value(predicted, present)
    return common / present


def precision(prediction: Mask, reference: Mask, rule: EmptyRule = BRATS) -> float:
    """Return |P and R| / |P| of one region: the share of the prediction that is right.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        rule: decides when a mask is empty.

    Raises:
        ValueError: if shapes differ or a mask is not boolean.
    """
    predicted, present, common = _count(prediction, reference)
    if not predicted or not present:
        return rule.precision.value(predicted, present)
    return common / predicted


def volume_error_ml(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float:
    """Return |P| - |R| in ml, the excess of the prediction; it needs no rule.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        spacing: voxel size in mm along every axis of S.

    Raises:
        ValueError: if shapes differ, a mask is not boolean, or spacing has another length.
    """
    check_pair(prediction, reference, spacing)
    surplus = int(prediction.sum()) - int(reference.sum())
    return surplus * float(np.prod(spacing)) / 1000


def _count(prediction: Mask, reference: Mask) -> tuple[int, int, int]:
    """Return the voxels of either mask and of both."""
    check_pair(prediction, reference)
    return int(prediction.sum()), int(reference.sum()), int((prediction & reference).sum())
