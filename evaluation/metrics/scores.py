"""All metrics of a patient, by the names that files and tables use.

============== ====== ===========================================================================
dice                  overlap of the voxels
hd95           mm     95th percentile Hausdorff distance, as MONAI
nsd                   normalised surface Dice at 1 mm, as surface-distance
sensitivity           share of the reference that was found
precision             share of the prediction that is right
volume_error   ml     predicted minus reference (``volume_error_ml``)
lesion_dice           lesion-wise Dice, as BraTS 2023
lesion_hd95    mm     lesion-wise HD95, as BraTS 2023
============== ====== ===========================================================================
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.layouts.conventions import REGIONS
from evaluation.metrics.cohort_dice import ID_BYTES, RegionDice, SliceDice
from evaluation.metrics.empty_rules import (
    BRATS,
    EMPTY_RULES,
    Absent,
    EmptyRule,
    rule_named,
    slice_rule,
)
from evaluation.metrics.lesions import lesion_scores
from evaluation.metrics.masks import as_numpy, bounding_box, check_pair
from evaluation.metrics.means import nan_mean
from evaluation.metrics.overlap import dice, precision, sensitivity, volume_error_ml
from evaluation.metrics.surface import hd95, nsd

__all__ = [
    "BRATS",
    "EMPTY_RULES",
    "ID_BYTES",
    "METRICS",
    "SLICE_METRICS",
    "Absent",
    "EmptyRule",
    "RegionDice",
    "SliceDice",
    "dice",
    "hd95",
    "is_metric",
    "lesion_scores",
    "nsd",
    "precision",
    "rule_named",
    "score_case",
    "score_slices",
    "sensitivity",
    "slice_rule",
    "volume_error_ml",
]

SLICE_METRICS = ("dice", "hd95", "nsd", "sensitivity", "precision")
METRICS = (*SLICE_METRICS, "volume_error_ml", "lesion_dice", "lesion_hd95")


def is_metric(column: str) -> bool:
    """Whether a column of ``per_case.csv`` holds a metric, of volumes or of slices."""
    return column.removeprefix("slices/").partition("/")[0] in METRICS


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    regions: Sequence[str] = REGIONS,
    rule: EmptyRule = BRATS,
) -> dict[str, Any]:
    """Score one patient: ``<metric>/<region>`` of all ``METRICS``, and the name of the rule.

    Args:
        prediction: (R, d, h, w), bool.
        reference: (R, d, h, w), bool.
        spacing: voxel size in mm along every axis.
        regions: names of the R regions.
        rule: decides when a region is empty.

    Raises:
        ValueError: if shapes differ, or there are not R regions.
    """
    pairs = zip(regions, prediction, reference, strict=True)
    scored = {region: _score(ours, theirs, spacing, rule) for region, ours, theirs in pairs}
    scores: dict[str, Any] = {
        f"{metric}/{region}": scored[region][metric] for metric in METRICS for region in scored
    }
    return {**scores, "empty_rule": rule.name}


def score_slices(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], rule: EmptyRule
) -> dict[str, float]:
    """Return the mean over one patient's slices of every metric of ``SLICE_METRICS``.

    Args:
        prediction: (N, h, w), bool.
        reference: (N, h, w), bool.
        spacing: pixel size in mm along both axes.
        rule: decides where a slice is empty.
    """
    pairs = zip(prediction, reference, strict=True)
    scored = [_score_plane(ours, theirs, spacing, rule) for ours, theirs in pairs]
    return {metric: nan_mean([scores[metric] for scores in scored]) for metric in SLICE_METRICS}


def _score(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], rule: EmptyRule
) -> dict[str, float]:
    """Score one region of a volume, inside the box that holds it."""
    check_pair(prediction, reference, spacing)
    ours, theirs = as_numpy(prediction), as_numpy(reference)
    union = ours | theirs
    if union.any():
        box = bounding_box(union)
        ours, theirs = np.ascontiguousarray(ours[box]), np.ascontiguousarray(theirs[box])
    scores = _score_plane(ours, theirs, spacing, rule)
    scores["volume_error_ml"] = volume_error_ml(ours, theirs, spacing)
    scores["lesion_dice"], scores["lesion_hd95"] = lesion_scores(ours, theirs, spacing, rule)
    return scores


def _score_plane(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], rule: EmptyRule
) -> dict[str, float]:
    """Return the metrics that are defined in two dimensions as in three."""
    return {
        "dice": dice(prediction, reference, rule),
        "hd95": hd95(prediction, reference, spacing, rule),
        "nsd": nsd(prediction, reference, spacing, rule),
        "sensitivity": sensitivity(prediction, reference, rule),
        "precision": precision(prediction, reference, rule),
    }
