"""Label maps as whole numbers, read from any stored type and scaling."""

from typing import Any

import numpy as np
import numpy.typing as npt

from errors import InputError

WHOLE = 1e-3  # how far a stored label may lie from a whole number; scaling rounds
MOST_LABELS = 64  # different values; an image has hundreds

Array = npt.NDArray[Any]


def whole_numbers(array: Array, name: str) -> Array:
    """The labels of a map as integers of any sign and size.

    Args:
        array: Voxels (*S).
        name: Name of the map, for messages.

    Raises:
        InputError: It is not 3-D, or a voxel holds no whole number.
    """
    if array.ndim != 3:
        raise InputError(
            f"{name} is {array.ndim}-D {array.shape}: expected a 3-D label map of whole "
            "numbers, not a channel for each region"
        )
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f":
        raise InputError(f"{name} holds {array.dtype}: expected a label map of whole numbers")
    whole = np.rint(array)
    if not np.array_equal(whole, array):  # NaN is not even equal to itself
        _refuse_fractions(array, whole, name)
    low, high = float(whole.min()), float(whole.max())
    if max(-low, high) >= 2**31:
        raise InputError(f"{name} holds values from {low:g} to {high:g}: expected a label map")
    if low >= 0 and high <= 255:
        return whole.astype(np.uint8)
    return whole.astype(np.int64)


def _refuse_fractions(array: Array, whole: Array, name: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(f"{name} holds NaN or Inf ({_place(~finite)}): set it to 0")
    off = np.abs(array - whole) > WHOLE
    if off.any():
        value = array[tuple(np.argwhere(off)[0])]
        raise InputError(
            f"{name} holds values from {array.min():g} to {array.max():g}, not all of them whole "
            f"numbers from 0 to 255 ({value:g} at {_place(off)}): write it with nearest neighbour "
            "interpolation, or give the label map instead of an image"
        )


def small_labels(array: Array, name: str) -> npt.NDArray[np.uint8]:
    """The labels of a map as uint8.

    Raises:
        InputError: As `whole_numbers`, or a label is negative or above 255.
    """
    labels = whole_numbers(array, name)
    if labels.dtype == np.uint8:
        return labels
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 255:
        value = low if low < 0 else high
        raise InputError(
            f"{name} holds values from {low} to {high}, not all of them whole numbers from 0 to "
            f"255 ({value} at {_place(labels == value)}): give a label map of small numbers"
        )
    return labels.astype(np.uint8)


def looks_like_labels(array: Array) -> bool:
    """Whether an array holds few whole numbers, as label maps do and images do not."""
    try:
        return len(np.unique(small_labels(array, "it"))) <= MOST_LABELS
    except InputError:
        return False


def _place(where: npt.NDArray[np.bool_]) -> str:
    """The first voxel of a kind."""
    return f"voxel ({', '.join(str(int(n)) for n in np.argwhere(where)[0])})"
