"""Checks and crops of the masks that metrics take: boolean pairs of one shape."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Mask = np.ndarray | Tensor


def check_pair(prediction: Mask, reference: Mask, spacing: Sequence[float] | None = None) -> None:
    """Refuse masks that numpy would broadcast, or whose probabilities it would count, silently.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        spacing: voxel size in mm along every axis of S, where distances matter.

    Raises:
        ValueError: if shapes differ, a mask is not boolean, or spacing has another length.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    for mask in (prediction, reference):
        if mask.dtype not in (torch.bool, np.dtype(bool)):
            raise ValueError(f"a mask has to be boolean, not {mask.dtype}")
    if spacing is not None and len(spacing) != prediction.ndim:
        raise ValueError(f"spacing has {len(spacing)} values for {prediction.ndim} axes")


def as_numpy(mask: Mask) -> np.ndarray:
    """Return a mask as an array on the processor."""
    return mask.cpu().numpy() if isinstance(mask, Tensor) else mask


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around the true voxels of a mask that has some."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        within = mask[tuple(box)]  # cropped along the earlier axes, so later passes are cheaper
        filled = np.flatnonzero(within.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)
