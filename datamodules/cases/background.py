"""The outside of the brain in an image: a constant, nothing, or the air around a head.

Skull-strippers write one value outside, usually 0; a z-score of the whole volume turns it into
another constant. The air around a head is noise: dark, and never one value. A piece cut out of
the brain has neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FULL = 0.95  # of the grid; only a piece cut out of the brain fills more of it
HEAD_VOLUME = 2500.0  # ml; the largest brains measure 2000 ml, a head with skull and skin 3500 ml
_CORNER = 0.1  # of each edge of the grid: a brain in its bounding box leaves the corners free
_FEWEST = 0.01  # of the corners' voxels that a background covers at least
_SPIKE = 5.0  # times as often as the next value; neighbouring values of noise are about as frequent
_REST = 0.05  # of the corners' voxels that may differ before they count as noise or brain
_DARK = 0.15  # of the way from the darkest to the brightest; tissue of the brain is brighter


@dataclass(frozen=True)
class Outside:
    """Content of an image's corners.

    Args:
        value: The constant outside the brain; None without one.
        rest: What else the corners hold: nothing, dark noise like air, or bright tissue.
        corners: Lowest and highest value in the corners.
    """

    value: float | None
    rest: Literal["nothing", "dark", "bright"]
    corners: tuple[float, float]


def look_outside(array: Array) -> Outside:
    """Describe the eight corners of a volume (*S)."""
    found = corner_voxels(array)
    values, counts = np.unique(found, return_counts=True)
    order = np.argsort(counts)[::-1]
    commonest, count = values[order[0]], int(counts[order[0]])
    following = int(counts[order[1]]) if len(order) > 1 else 0
    constant = count >= max(_SPIKE * following, _FEWEST * found.size, 2)
    rest = found[found != commonest] if constant else found
    what: Literal["nothing", "dark", "bright"] = "nothing"
    if rest.size > _REST * found.size:
        step = max(1, array.size // 100_000)
        low, high = np.percentile(array.ravel("K")[::step].astype(np.float64), [0.1, 98])
        what = "dark" if np.median(rest) - low < _DARK * (high - low) else "bright"
    span = (float(values[0]), float(values[-1]))
    return Outside(float(commonest) if constant else None, what, span)


def corner_voxels(array: Array) -> Array:
    """The voxels of the eight corners of a volume, flat."""
    ends = []
    for n in array.shape:
        edge = max(1, int(_CORNER * n))
        ends.append((slice(0, edge), slice(max(edge, n - edge), n)))
    return np.concatenate([array[corner].ravel("K") for corner in product(*ends)])


def without_background(array: Array, value: float) -> Array:
    """An image whose background is 0 and whose other voxels are not: shifted by `value`.

    A z-score inside the brain does not notice the shift.
    """
    if value == 0:
        return array
    if array.dtype.kind == "f":
        return (array.astype(np.float64) - value).astype(np.float32)
    return (array.astype(np.int64) - int(value)).astype(np.int32)


def head_shown(images: Mapping[str, Array], outside: Mapping[str, Outside], voxel_ml: float) -> str:
    """Return a sentence on images that show more than the brain; empty when none does.

    Args:
        images: Modality to volume.
        outside: What their corners show.
        voxel_ml: Volume of a voxel.
    """
    noisy = [name for name, found in outside.items() if found.rest == "dark"]
    # Voxels that are dark in one sequence and bright in another are fluid, not air.
    if noisy and not any(found.rest == "bright" for found in outside.values()):
        low, high = outside[noisy[0]].corners
        return (
            f"{', '.join(noisy)}: shows a whole head or noise around the brain (corners hold "
            f"{low:g} to {high:g}, no constant background)"
        )
    for name, array in images.items():
        value = outside[name].value
        inside = array.size if value is None else int(np.count_nonzero(array != value))
        if inside * voxel_ml > HEAD_VOLUME:
            what = "and no voxel is background" if value is None else "are not background"
            return (
                f"{name} shows a whole head ({inside * voxel_ml:.0f} ml {what}, a brain has at "
                "most 2000 ml)"
            )
    return ""
