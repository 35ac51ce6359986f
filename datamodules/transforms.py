"""Augmentation of a patch: rotation, flips, intensity; its random numbers apart from its doing.

`draw` takes the random numbers, `augmented_patch` applies them: the same numbers replay the same
patch. Rotation turns about one anatomical axis at a time and reads a larger region of the memory
map, so that the corners of the turned patch hold image wherever there is any.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from datamodules.intensity import BACKGROUND
from datamodules.sampling import read_region

Array = npt.NDArray[Any]
ROTATION_PROBABILITY = 0.5
ROTATION_LIMIT = 15.0  # degrees: how far heads are tilted after registration to an atlas, and more
FLIP_PROBABILITY = 0.5
INTENSITY = 0.1  # of scale, and of shift in standard deviations of the brain


@dataclass(frozen=True)
class Augmentation:
    """The random numbers of one patch.

    Args:
        axis: Axis that the rotation turns about, or None for no rotation.
        angle: Of the rotation, radians.
        flips: Axes to be mirrored.
        scale: Factor a modality (4,).
        shift: Summand a modality (4,), in z-scores.
    """

    axis: int | None
    angle: float
    flips: tuple[bool, bool, bool]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]


def draw(rng: np.random.Generator) -> Augmentation:
    """Random numbers for one patch."""
    turned = rng.random() < ROTATION_PROBABILITY
    axis, angle = int(rng.integers(3)), rng.uniform(-ROTATION_LIMIT, ROTATION_LIMIT)
    left, front, low = (bool(flip) for flip in rng.random(3) < FLIP_PROBABILITY)
    return Augmentation(
        axis=axis if turned else None,
        angle=float(np.deg2rad(angle)),
        flips=(left, front, low),
        scale=rng.uniform(1 - INTENSITY, 1 + INTENSITY, 4).astype(np.float32),
        shift=rng.uniform(-INTENSITY, INTENSITY, 4).astype(np.float32),
    )


def plain_patch(
    image: Array, label: Array, start: tuple[int, ...], size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A patch as it lies: image (4, *size), label (*size).

    Args:
        image: (4, d, h, w), possibly a memory map.
        label: (d, h, w).
        start: First voxel; the patch may reach beyond the volume.
        size: Of the patch in voxels.
    """
    patch = read_region(image, start, size, np.empty((len(image), *size), np.float32))
    return patch, read_region(label, start, size, np.empty(size, np.uint8), 0)


def augmented_patch(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    augmentation: Augmentation,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The patch of `plain_patch`, turned about its centre, mirrored, its intensities changed."""
    if augmentation.axis is None:
        patch, labels = plain_patch(image, label, start, size)
    else:
        patch, labels = _turned(image, label, start, size, augmentation.axis, augmentation.angle)
    mirrored = tuple(slice(None, None, -1 if flip else 1) for flip in augmentation.flips)
    patch, labels = patch[(slice(None), *mirrored)], labels[mirrored]
    return _intensity(patch, augmentation), np.ascontiguousarray(labels)


def _intensity(patch: Array, augmentation: Augmentation) -> npt.NDArray[np.float32]:
    """Scale and shift inside the brain; the background keeps its fill."""
    brain = np.any(patch != BACKGROUND, axis=0)
    out = np.empty(patch.shape, np.float32)
    for channel, values in enumerate(patch):
        np.multiply(brain, augmentation.shift[channel], out=out[channel])
        out[channel] += values * augmentation.scale[channel]
    return out


def _turned(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    axis: int,
    angle: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Rotate about `axis` through the patch's centre; the image linearly, the label nearest."""
    first, second = (a for a in range(3) if a != axis)
    plane = (size[first], size[second])
    cosine, sine = np.cos(angle), np.sin(angle)
    # Around the turned rectangle lies an upright one, one voxel wider for the interpolation.
    reach = (
        int(np.ceil(abs(cosine) * plane[0] + abs(sine) * plane[1])) + 2,
        int(np.ceil(abs(sine) * plane[0] + abs(cosine) * plane[1])) + 2,
    )
    reach = (reach[0] + (reach[0] - plane[0]) % 2, reach[1] + (reach[1] - plane[1]) % 2)
    wide, wide_start = list(size), list(start)
    for a, n in ((first, reach[0]), (second, reach[1])):
        wide_start[a] -= (n - size[a]) // 2
        wide[a] = n
    i, j = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in plane], indexing="ij")
    x = cosine * i - sine * j + (reach[0] - 1) / 2
    y = sine * i + cosine * j + (reach[1] - 1) / 2
    region, labels = plain_patch(image, label, tuple(wide_start), tuple(wide))
    # The turning plane in front, the axis behind: every weight then acts on a whole row at once.
    rows = np.moveaxis(region, axis + 1, 3).reshape(len(region), reach[0] * reach[1], size[axis])
    weights = _bilinear(x.ravel(), y.ravel(), reach)
    turned = np.empty((len(region), *plane, size[axis]), np.float32)
    for channel, values in zip(turned, rows, strict=True):
        channel[...] = (weights @ values).reshape(channel.shape)
    nearest = np.rint(x).astype(np.intp) * reach[1] + np.rint(y).astype(np.intp)
    flat = np.moveaxis(labels, axis, 2).reshape(reach[0] * reach[1], size[axis])
    return np.moveaxis(turned, 3, axis + 1), np.moveaxis(flat[nearest], 2, axis)


def _bilinear(x: Array, y: Array, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Bilinear interpolation at points (x, y) of a plane as a sparse matrix (points, voxels)."""
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    right, below = (x - left).astype(np.float32), (y - top).astype(np.float32)
    corner = left * shape[1] + top
    columns = np.stack([corner, corner + 1, corner + shape[1], corner + shape[1] + 1], axis=1)
    weights = np.stack(
        [
            (1 - right) * (1 - below),
            (1 - right) * below,
            right * (1 - below),
            right * below,
        ],
        axis=1,
    )
    starts = np.arange(0, 4 * len(x) + 1, 4, dtype=np.int32)
    points = (weights.ravel(), columns.ravel(), starts)
    return sparse.csr_matrix(points, shape=(len(x), shape[0] * shape[1]))
