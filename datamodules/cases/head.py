"""Mask of the head, in images that still hold skull, skin and the noise of the air around."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

Array = npt.NDArray[Any]
_BINS = 256


def head_mask(images: Iterable[Array]) -> npt.NDArray[np.bool_]:
    """Voxels of the head: above Otsu's threshold in any image, largest piece, holes filled.

    Args:
        images: Volumes on one grid (*S).
    """
    inside: npt.NDArray[np.bool_] | None = None
    for image in images:
        bright = image > otsu(image)
        inside = bright if inside is None else inside | bright
    if inside is None:
        raise ValueError("a head mask needs at least one image")
    # The dark skull parts scalp from brain: closed and filled first, the head is one piece.
    filled = _fill(ndi.binary_closing(inside, iterations=2) | inside)
    opened = ndi.binary_opening(filled, iterations=2)
    pieces, count = ndi.label(opened if opened.any() else filled)
    if count > 1:
        pieces = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return np.asarray(pieces != 0, bool)


def _fill(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Fill holes plane by plane, because heads are cut open at the ends of the grid."""
    filled = inside.copy()
    for axis in range(inside.ndim):
        for plane, out in zip(
            np.moveaxis(inside, axis, 0), np.moveaxis(filled, axis, 0), strict=True
        ):
            out |= ndi.binary_fill_holes(plane)
    return filled


def otsu(image: Array) -> float:
    """Threshold with the largest variance between the classes below and above (Otsu 1979).

    The brightest hundredth counts as its lower edge, so that a few bright vessels do not widen the
    histogram.
    """
    values = np.asarray(image, np.float32).ravel()
    low, high = float(values.min()), float(np.percentile(values, 99))
    if high <= low:
        return low
    counts, edges = np.histogram(np.minimum(values, high), _BINS, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts, dtype=np.float64)
    above = below[-1] - below
    total = np.cumsum(counts * centres, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = total / below - (total[-1] - total) / above
        variance = np.nan_to_num(below * above * apart**2)
    return float(edges[1 + int(np.argmax(variance))])
