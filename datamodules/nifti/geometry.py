"""From a file's grid to the prepared grid and back: reorient, crop to the brain box, resample.

Every step is separable, so resampling is one small matrix an axis, and the way back is exact in
position: voxel centres of either grid are interpolated at their true place in mm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SAME_SPACING = 1e-3  # relative; a file's float32 header does not hold spacing more exactly


@dataclass(frozen=True)
class Geometry:
    """The place of a prepared case on the grid of its files.

    Args:
        native_shape: Grid of the files.
        orientation: nibabel's (axis, flip) rows that bring the file to canonical (RAS) order.
        start: First voxel of the brain box, canonical order.
        box: Size of the brain box in native voxels, canonical order.
        native_spacing: mm, canonical order.
        spacing: mm, of the prepared grid.
    """

    native_shape: tuple[int, ...]
    orientation: tuple[tuple[int, int], ...]
    start: tuple[int, ...]
    box: tuple[int, ...]
    native_spacing: tuple[float, ...]
    spacing: tuple[float, ...]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Geometry":
        """Inverse of `dataclasses.asdict`, also after JSON has turned tuples into lists."""
        values: dict[str, Any] = {key: tuple(value) for key, value in plain.items()}
        values["orientation"] = tuple(tuple(row) for row in values["orientation"])
        return cls(**values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the prepared grid: the brain box, its last voxel possibly reaching beyond."""
        return tuple(
            n if _same(native, new) else max(1, int(np.ceil(n * native / new - 1e-3)))
            for n, native, new in zip(self.box, self.native_spacing, self.spacing, strict=True)
        )

    @property
    def resamples(self) -> bool:
        """Whether the prepared spacing differs from the file's."""
        return not all(map(_same, self.native_spacing, self.spacing))

    def crop(self, array: Array) -> Array:
        """The brain box of an array on the file's grid, as a view in canonical order."""
        canonical = canonical_view(array, self.orientation)
        return canonical[tuple(slice(s, s + n) for s, n in zip(self.start, self.box, strict=True))]

    def resample(self, boxed: Array) -> npt.NDArray[np.float32]:
        """Brain box (..., *box) to the prepared grid (..., *shape), with anti-aliasing."""
        return _separable(boxed, self.box, self.shape, self.native_spacing, self.spacing)

    def to_native(self, prepared: Array) -> npt.NDArray[np.float32]:
        """Prepared (R, *shape) to the file's grid (R, *native_shape), 0 outside the brain box."""
        boxed = _separable(prepared, self.shape, self.box, self.spacing, self.native_spacing)
        native = np.zeros((len(prepared), *self.native_shape), np.float32)
        for channel, values in zip(native, boxed, strict=True):
            self.crop(channel)[...] = values
        return native


def corner_distance(affine: Array, other: Array, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the corners that two affines give one grid (i, j, k)."""
    corners = np.array(np.meshgrid(*[[0, n - 1] for n in shape])).reshape(3, -1)
    apart = (affine - other) @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.sqrt((apart[:3] ** 2).sum(0)).max())


def orientation_of(affine: Array) -> tuple[tuple[int, int], ...]:
    """Nibabel's (axis, flip) rows of an affine, as plain integers."""
    return tuple((int(axis), int(flip)) for axis, flip in nib.io_orientation(affine))


def canonical_view(array: Array, orientation: tuple[tuple[int, int], ...]) -> Array:
    """A view of `array` in canonical order; writing to it writes to the array."""
    flipped = array[tuple(slice(None, None, flip) for _, flip in orientation)]
    return flipped.transpose(np.argsort([axis for axis, _ in orientation]))


def canonical_spacing(
    spacing: tuple[float, ...], orientation: tuple[tuple[int, int], ...]
) -> tuple[float, ...]:
    """Voxel edges in canonical order."""
    order = np.argsort([axis for axis, _ in orientation])
    return tuple(float(spacing[axis]) for axis in order)


def spacing_mark(spacing: tuple[float, ...]) -> list[int]:
    """Voxel edges as whole numbers that rounding in a file's header does not change.

    Steps of about 1e-4 of the edge, on a scale of logarithms whose borders keep clear of the edges
    in use (fields of view over matrix sizes, hundredths of mm): float32 is never near one there.
    """
    return [round(float(np.log(edge)) * 9193) for edge in spacing]


def bounding_box(inside: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and size of the smallest box around the true voxels."""
    starts, sizes = [], []
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        hit = np.flatnonzero(inside.any(axis=others))
        starts.append(int(hit[0]))
        sizes.append(int(hit[-1] - hit[0] + 1))
    return tuple(starts), tuple(sizes)


def _same(spacing: float, other: float) -> bool:
    return abs(spacing - other) <= SAME_SPACING * max(spacing, other)  # in either order


def _separable(
    array: Array,
    size: tuple[int, ...],
    new_size: tuple[int, ...],
    spacing: tuple[float, ...],
    new_spacing: tuple[float, ...],
) -> npt.NDArray[np.float32]:
    """Apply one interpolation matrix along each of the last three axes."""
    out = np.asarray(array, np.float32)
    for axis in range(3):
        if _same(spacing[axis], new_spacing[axis]):
            continue
        weights = _weights(size[axis], new_size[axis], new_spacing[axis] / spacing[axis])
        place = axis - 3
        out = np.moveaxis(np.moveaxis(out, place, -1) @ weights.T, -1, place)
    return np.ascontiguousarray(out)


@lru_cache(maxsize=64)
def _weights(size: int, new_size: int, step: float) -> npt.NDArray[np.float32]:
    """Interpolation matrix (new_size, size) between two grids that share their first edge.

    Linear where the new grid is finer; where it is coarser the linear interpolant is averaged over
    the new voxel, so that detail below it does not alias. Both keep a linear field as it is.
    Beyond the edge the last value holds.
    """
    centres = (np.arange(new_size) + 0.5) * step - 0.5
    half = step / 2 if step > 1 else 0.0
    reach = int(np.ceil(half)) + 1
    taps = np.floor(centres)[:, None] + np.arange(-reach, reach + 2)
    apart = centres[:, None] - taps
    if half:
        weight = (_hat_integral(apart + half) - _hat_integral(apart - half)) / step
    else:
        weight = np.clip(1 - np.abs(apart), 0, None)
    weights = np.zeros((new_size, size), np.float64)
    rows = np.arange(new_size)[:, None].repeat(taps.shape[1], 1)
    np.add.at(weights, (rows, np.clip(taps, 0, size - 1).astype(int)), weight)
    return weights.astype(np.float32)


def _hat_integral(x: Array) -> Array:
    """Integral of max(0, 1 - |t|) from minus infinity to `x`."""
    x = np.clip(x, -1, 1)
    return np.where(x < 0, (1 + x) ** 2 / 2, 1 - (1 - x) ** 2 / 2)
