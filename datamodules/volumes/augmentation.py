"""Augmentation of a patch: rotation, flips, intensity, and randomisation of all a scanner changes.

Drawing is separate from applying.

`draw` takes the random numbers, `augmented_patch` applies them: the same numbers replay the same
patch. Rotation turns about one anatomical axis at a time and reads a larger region of the memory
map, so that the corners of the turned patch hold image wherever there is any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from datamodules import huge_pages
from datamodules.cases.intensity import BACKGROUND
from datamodules.training.randomisation import (
    Kind,
    Randomisation,
    draw_randomisation,
    randomise,
)

Array = npt.NDArray[Any]
VolumeKind = Kind | Literal["nnunet"]  # of augmentation
ROTATION_PROBABILITY = 0.5
ROTATION_LIMIT = 15.0  # degrees: how far heads are tilted after registration to an atlas, and more
FLIP_PROBABILITY = 0.5
INTENSITY = 0.1  # of scale, and of shift in standard deviations of the brain


@dataclass(frozen=True)
class Augmentation:
    """The random numbers of one patch.

    Args:
        axis: Axis that the rotation turns about, or None for no rotation.
        angle: Angle of the rotation, radians.
        flips: Axes to be mirrored.
        scale: Factor a modality (4,).
        shift: Summand a modality (4,), in z-scores.
        randomisation: Further random numbers of a randomised patch.
    """

    axis: int | None
    angle: float
    flips: tuple[bool, bool, bool]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    randomisation: Randomisation | None = None


def draw(rng: np.random.Generator, extent: tuple[float, ...] | None = None) -> Augmentation:
    """Random numbers for one patch.

    Args:
        rng: Their source.
        extent: mm along each axis of a patch that is randomised; None: it is not.
    """
    turned = rng.random() < ROTATION_PROBABILITY
    axis, angle = int(rng.integers(3)), rng.uniform(-ROTATION_LIMIT, ROTATION_LIMIT)
    left, front, low = (bool(flip) for flip in rng.random(3) < FLIP_PROBABILITY)
    return Augmentation(
        axis=axis if turned else None,
        angle=float(np.deg2rad(angle)),
        flips=(left, front, low),
        scale=rng.uniform(1 - INTENSITY, 1 + INTENSITY, 4).astype(np.float32),
        shift=rng.uniform(-INTENSITY, INTENSITY, 4).astype(np.float32),
        randomisation=draw_randomisation(rng, extent) if extent is not None else None,
    )


def plain_patch(
    image: Array, label: Array, start: tuple[int, ...], size: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch without augmentation: image (4, *size) float32, label (*size) uint8.

    Args:
        image: (4, d, h, w) float16, possibly a memory map.
        label: (d, h, w) uint8.
        start: First voxel; the patch may reach beyond the volume.
        size: Size of the patch in voxels.
    """
    # torch converts float16 an order of magnitude faster than numpy, and in the same pass.
    patch = torch.from_numpy(huge_pages.empty((len(image), *size), np.float32))
    source, target, whole = overlap(start, size, image.shape)
    if not whole:
        patch.fill_(BACKGROUND)
    patch[target].copy_(torch.from_numpy(image[source]))
    return patch, torch.from_numpy(_read(label, start, size, 0))


def augmented_patch(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    augmentation: Augmentation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch of `plain_patch`, turned about its centre, mirrored, its intensities changed."""
    if augmentation.axis is not None:
        return _turned(image, label, start, size, augmentation)
    patch, labels = mirrored_patch(image, label, start, size, augmentation.flips)
    if augmentation.randomisation is not None:
        return _randomised(torch.from_numpy(patch), labels, augmentation)
    brain = brain_of(torch.from_numpy(patch))
    return _change_intensity(to_single(patch), brain, augmentation), torch.from_numpy(labels)


def mirrored_patch(
    image: Array, label: Array, start: tuple[int, ...], size: tuple[int, ...], flips: Sequence[bool]
) -> tuple[Array, Array]:
    """The patch of `plain_patch`, mirrored: image (4, *size) float16, label (*size) uint8."""
    mirror = _mirror(flips)
    # Steps that only move voxels run in float16, with half the memory.
    patch = _contiguous(_read(image, start, size, BACKGROUND)[(slice(None), *mirror)])
    return patch, _contiguous(_read(label, start, size, 0)[mirror])


def _mirror(flips: Sequence[bool]) -> tuple[slice, ...]:
    """The index that mirrors an array along the axes whose flip is true."""
    return tuple(slice(None, None, -1 if flip else 1) for flip in flips)


def overlap(
    start: Sequence[int], size: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[Any, ...], tuple[Any, ...], bool]:
    """Return a region's overlap with a volume, in both indices, and whether it lies inside.

    Args:
        start: First voxel of the region, which may lie outside.
        size: Its size in voxels.
        shape: That of the volume, (..., d, h, w).
    """
    source: list[Any] = [...]
    target: list[Any] = [...]
    for first, n, extent in zip(start, size, shape[-3:], strict=True):
        low, high = max(first, 0), min(first + n, extent)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - first, max(high, low) - first))
    whole = all(part.stop - part.start == n for part, n in zip(source[1:], size, strict=True))
    return tuple(source), tuple(target), whole


def _read(volume: Array, start: Sequence[int], size: Sequence[int], fill: float) -> Array:
    """A region of (..., d, h, w) in memory, (..., *size); beyond the volume lies `fill`."""
    source, target, whole = overlap(start, size, volume.shape)
    region = huge_pages.empty((*volume.shape[:-3], *size), volume.dtype)
    if not whole:
        region[...] = fill
    region[target] = volume[source]
    return region


def _contiguous(view: Array) -> Array:
    """A copy of a mirrored or turned view, in order."""
    copy = huge_pages.empty(view.shape, view.dtype)
    copy[...] = view
    return copy


def to_single(halves: Array) -> torch.Tensor:
    """float16 to float32."""
    return torch.from_numpy(huge_pages.empty(halves.shape, np.float32)).copy_(
        torch.from_numpy(halves)
    )


def brain_of(patch: torch.Tensor) -> torch.Tensor:
    """1 inside the brain, 0 outside: (4, *patch) to float32 (*patch)."""
    # The fill is 0.0, whose bits are all 0: a voxel of brain has a bit set in some modality.
    bits = patch.view(torch.int16 if patch.element_size() == 2 else torch.int32)
    return (reduce(torch.bitwise_or, bits) != 0).float()


def _change_intensity(
    patch: torch.Tensor, brain: torch.Tensor, augmentation: Augmentation
) -> torch.Tensor:
    """Scale and shift inside the brain, in place; the background keeps its fill."""
    for values, scale, shift in zip(patch, augmentation.scale, augmentation.shift, strict=True):
        values.mul_(float(scale)).add_(brain, alpha=float(shift))
    return patch


def _randomised(
    patch: torch.Tensor, labels: Array, augmentation: Augmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Randomise a patch, whose scale and shift come last."""
    assert augmentation.randomisation is not None  # checked by the caller
    numbers, scale, shift = augmentation.randomisation, augmentation.scale, augmentation.shift
    return randomise(patch, labels, numbers, scale, shift), torch.from_numpy(labels)


def _turned(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    augmentation: Augmentation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate about one axis through the patch's centre, mirror, change intensities.

    The image is interpolated linearly, the label takes its nearest voxel.
    """
    assert augmentation.axis is not None  # checked by the caller
    axis, angle, flips = augmentation.axis, augmentation.angle, augmentation.flips
    first, second = (a for a in range(3) if a != axis)
    plane = (size[first], size[second])
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    # Around the turned rectangle lies an upright one, a voxel wider for the interpolation, and
    # wider by an even number so that both have one centre.
    reach = [
        int(np.ceil(abs(cosine) * n + abs(sine) * other)) + 2 for n, other in (plane, plane[::-1])
    ]
    reach = [n + (n - p) % 2 for n, p in zip(reach, plane, strict=True)]
    wide, wide_start = list(size), list(start)
    for a, n in zip((first, second), reach, strict=True):
        wide[a], wide_start[a] = n, start[a] - (n - size[a]) // 2
    # Mirroring in the plane is a change of sign of the coordinates.
    i, j = np.meshgrid(
        *[
            (np.arange(n) - (n - 1) / 2) * (-1 if flips[a] else 1)
            for a, n in zip((first, second), plane, strict=True)
        ],
        indexing="ij",
    )
    x = cosine * i - sine * j + (reach[0] - 1) / 2
    y = sine * i + cosine * j + (reach[1] - 1) / 2
    # The turning plane in front, the axis behind: every weight then acts on a whole row at once.
    order = _mirror([False, False, False, flips[axis]])
    voxels = reach[0] * reach[1]
    halves = _contiguous(
        np.moveaxis(_read(image, wide_start, wide, BACKGROUND), axis + 1, 3)[order]
    )
    weights = _bilinear(x.ravel(), y.ravel(), (reach[0], reach[1]))
    turned = huge_pages.empty((len(image), *plane, size[axis]), np.float32)
    for modality, values in zip(turned, to_single(halves).numpy(), strict=True):
        interpolated = weights @ values.reshape(voxels, size[axis])
        modality[...] = interpolated.reshape(modality.shape)
    if augmentation.randomisation is None:
        changed = torch.from_numpy(turned)
        _change_intensity(changed, brain_of(changed), augmentation)
    patch = turned if axis == 2 else _contiguous(np.moveaxis(turned, 3, axis + 1))
    nearest = np.rint(x).astype(np.intp), np.rint(y).astype(np.intp)
    labels = np.moveaxis(_read(label, wide_start, wide, 0), axis, 2)[order[1:]][nearest]
    labels = _contiguous(np.moveaxis(labels, 2, axis))
    if augmentation.randomisation is not None:
        return _randomised(torch.from_numpy(patch), labels, augmentation)
    return torch.from_numpy(patch), torch.from_numpy(labels)


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
