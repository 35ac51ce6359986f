"""Where the head is, in images that still hold skull, skin and the noise of the air around."""

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
    opened = ndi.binary_opening(inside, iterations=1)
    pieces, count = ndi.label(opened if opened.any() else inside)
    if count > 1:
        pieces = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    closed = ndi.binary_closing(pieces != 0, iterations=2) | (pieces != 0)
    # Air in sinuses and ventricles that look dark everywhere belong to the head.
    return np.asarray(ndi.binary_fill_holes(closed), bool)


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
