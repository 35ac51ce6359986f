"""Metrics of surfaces: HD95 as MONAI defines it, surface Dice as surface-distance does.

They differ in the surface: MONAI's HD95 takes the border voxels' centres, surface-distance takes
elements between voxels, each with its area (Nikolov et al. 2018, arXiv:1809.04430).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.spatial import KDTree

from evaluation.metrics.empty_rules import BRATS, EmptyRule
from evaluation.metrics.masks import Mask, as_numpy, bounding_box, check_pair

TOLERANCE_MM = 1.0
# A float32 header says 0.99999994 for 1 mm: a step of one voxel has to stay within 1 mm.
HEADER_SLACK_MM = 1e-4


def hd95(
    prediction: Mask, reference: Mask, spacing: Sequence[float], rule: EmptyRule = BRATS
) -> float:
    """Return the 95th percentile Hausdorff distance of one region in mm, as MONAI defines it.

    The surface of a mask is its voxels with a face neighbour outside it, or on the image border.
    The larger of the two directed 95th percentiles counts; other tools pool both directions first
    and get other numbers.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        spacing: voxel size in mm along every axis of S.
        rule: decides when a mask is empty.

    Raises:
        ValueError: if shapes differ, a mask is not boolean, or spacing has another length.
    """
    check_pair(prediction, reference, spacing)
    predicted, present = _cut(prediction, reference)
    if not predicted.any() or not present.any():
        return rule.hd95.value(int(predicted.sum()), int(present.sum()))
    ours, theirs = (np.argwhere(_border(mask)) * spacing for mask in (predicted, present))
    directed = (
        np.percentile(KDTree(target, leafsize=32).query(points)[0], 95)
        for points, target in ((ours, theirs), (theirs, ours))
    )
    return float(max(directed))


def nsd(
    prediction: Mask,
    reference: Mask,
    spacing: Sequence[float],
    rule: EmptyRule = BRATS,
    tolerance: float = TOLERANCE_MM,
) -> float:
    """Return the normalised surface Dice of one region, as surface-distance defines it.

    It is the share of both surfaces, by area, that lies within the tolerance of the other. MONAI's
    surface Dice with ``use_subvoxels=True`` is the same.

    Args:
        prediction: (*S), bool, of two or three axes.
        reference: (*S), bool.
        spacing: voxel size in mm along every axis of S.
        rule: decides when a mask is empty.
        tolerance: mm.

    Raises:
        ValueError: if shapes differ, a mask is not boolean, or spacing has another length.
    """
    check_pair(prediction, reference, spacing)
    predicted, present = _cut(prediction, reference)
    if not predicted.any() or not present.any():
        return rule.nsd.value(int(predicted.sum()), int(present.sum()))
    ours, theirs = (_elements(mask, spacing) for mask in (predicted, present))
    reach = tolerance + HEADER_SLACK_MM
    near = total = 0.0
    for (points, areas), (target, _) in ((ours, theirs), (theirs, ours)):
        distances = KDTree(target, leafsize=32).query(points, distance_upper_bound=reach)[0]
        near += float(areas[distances <= reach].sum())
        total += float(areas.sum())
    return near / total


def robust_hausdorff(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], percent: float = 95
) -> float:
    """Return surface-distance's Hausdorff distance in mm, infinite where a mask is empty.

    Of either surface, ``percent`` of the area lie at most so far from the other.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        spacing: voxel size in mm along every axis of S.
        percent: share of the area, in per cent.
    """
    if not prediction.any() or not reference.any():
        return float("inf")
    ours, theirs = (_elements(mask, spacing) for mask in _cut(prediction, reference))
    directed = []
    for (points, areas), (target, _) in ((ours, theirs), (theirs, ours)):
        distances = KDTree(target, leafsize=32).query(points)[0]
        order = np.lexsort((areas, distances))
        covered = np.cumsum(areas[order])
        place = int(np.searchsorted(covered / areas.sum(), percent / 100))
        directed.append(float(distances[order[min(place, len(order) - 1)]]))
    return max(directed)


def _cut(prediction: Mask, reference: Mask) -> tuple[np.ndarray, np.ndarray]:
    """Return both masks cut to the box around them; empty arrays for empty masks."""
    predicted, present = as_numpy(prediction), as_numpy(reference)
    union = predicted | present
    box = bounding_box(union) if union.any() else (slice(0, 0),)
    return predicted[box], present[box]


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask with a face neighbour outside; beyond the array is outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return mask & ~inner


def _elements(mask: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface elements of a mask: places (N, D) in mm and areas (N) in mm2.

    An element lies where 2 x 2 x 2 voxels are neither all inside nor all outside; which of them
    are inside decides its area. In two dimensions it is a piece of contour, its area a length.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros(tuple(n + 1 for n in mask.shape), np.uint8)
    corners = list(product((0, 1), repeat=mask.ndim))
    for corner, bit in zip(corners, reversed(range(len(corners))), strict=True):
        window = tuple(slice(s, s + n) for s, n in zip(corner, codes.shape, strict=True))
        codes |= padded[window] << np.uint8(bit)
    border = (codes != 0) & (codes != 2 ** len(corners) - 1)
    areas = _areas(tuple(float(edge) for edge in spacing))
    return np.argwhere(border) * spacing, areas[codes[border]]


@lru_cache(maxsize=64)
def _areas(spacing: tuple[float, ...]) -> np.ndarray:
    """Return the area of an element by the code of its voxels, from MONAI's tables."""
    from monai.metrics.utils import get_code_to_measure_table

    table, _ = get_code_to_measure_table(spacing)
    areas: np.ndarray = table.double().numpy()
    return areas
