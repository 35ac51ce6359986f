"""Lesion-wise Dice and HD95 as BraTS 2023 scored them: the mean over lesions, not over voxels.

Saluja et al., arXiv:2305.17033 and the challenge's published script: lesions of the reference that
three dilations join are one; each is compared with all predicted components that its dilation
touches. Reference lesions of at most 50 mm3, 50 voxels of the challenge, do not count; a missed
lesion and a predicted component that touches none score Dice 0 and 374 mm.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from evaluation.metrics.empty_rules import BRATS, EmptyRule
from evaluation.metrics.masks import Mask, as_numpy, bounding_box, check_pair
from evaluation.metrics.surface import robust_hausdorff

DILATIONS = 3
SMALLEST_MM3 = 50.0
PENALTY_MM = 374.0


def lesion_scores(
    prediction: Mask, reference: Mask, spacing: Sequence[float], rule: EmptyRule = BRATS
) -> tuple[float, float]:
    """Return lesion-wise Dice and HD95 in mm of one region.

    Args:
        prediction: (d, h, w), bool.
        reference: (d, h, w), bool.
        spacing: voxel size in mm along every axis.
        rule: decides where there is no lesion to be counted.

    Raises:
        ValueError: if shapes differ, a mask is not boolean, or spacing has another length.
    """
    check_pair(prediction, reference, spacing)
    predicted, present = as_numpy(prediction), as_numpy(reference)
    union = predicted | present
    if not union.any():
        return rule.lesion_dice, rule.lesion_hd95
    box = bounding_box(union)  # dilations that meet outside it meet inside it too
    dices, distances = _compare(predicted[box], present[box], spacing)
    if not dices:
        return rule.lesion_dice, rule.lesion_hd95
    return float(np.mean(dices)), float(np.mean(distances))


def _compare(
    predicted: np.ndarray, present: np.ndarray, spacing: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return Dice and HD95 of every lesion that counts, and of every invented component."""
    touching = np.ones((3, 3, 3), bool)
    components, count = ndimage.label(predicted, touching)
    places = ndimage.find_objects(components)
    joined, lesion_count = ndimage.label(_dilate(present), touching)
    lesions = np.where(present, joined, 0)
    voxel = float(np.prod(spacing))
    dices: list[float] = []
    distances: list[float] = []
    found: set[int] = set()
    for number, place in enumerate(ndimage.find_objects(lesions, lesion_count), start=1):
        room = _widen(place, DILATIONS, present.shape)
        hits = np.unique(components[room][_dilate(lesions[room] == number)])
        hits = hits[hits > 0]
        found.update(hits.tolist())
        window = _union([place, *(places[hit - 1] for hit in hits)])
        lesion = lesions[window] == number
        if lesion.sum() * voxel <= SMALLEST_MM3:
            continue
        match = np.isin(components[window], hits)
        dices.append(2 * int((match & lesion).sum()) / int(match.sum() + lesion.sum()))
        distance = robust_hausdorff(match, lesion, spacing)
        distances.append(distance if np.isfinite(distance) else PENALTY_MM)
    invented = count - len(found)
    return dices + [0.0] * invented, distances + [PENALTY_MM] * invented


def _dilate(mask: np.ndarray) -> np.ndarray:
    """Return a mask grown three times by its neighbours across faces and edges."""
    grown: np.ndarray = ndimage.binary_dilation(
        mask, ndimage.generate_binary_structure(3, 2), iterations=DILATIONS
    )
    return grown


def _widen(place: tuple[slice, ...], margin: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(place, shape, strict=True)
    )


def _union(places: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*places, strict=True)
    )
