"""Augmentation of a patch: rotation, flips, intensity, and randomisation of all a scanner changes.

Drawing is separate from applying.

`draw` takes the random numbers, `augmented_patch` applies them: the same numbers replay the same
patch. Rotation turns about one anatomical axis at a time and reads a larger region of the memory
map, so that the corners of the turned patch hold image wherever there is any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from datamodules import huge_pages
from datamodules.cases.intensity import BACKGROUND
from datamodules.training.randomisation import (
    CACHED,
    Kind,
    Randomisation,
    draw_randomisation,
    inside_brain,
    randomise,
)

Array = npt.NDArray[Any]
VolumeKind = Kind | Literal["nnunet"]  # of augmentation
ROTATION_PROBABILITY = 0.5
ROTATION_LIMIT = 15.0  # degrees: how far heads are tilted after registration to an atlas, and more
FLIP_PROBABILITY = 0.5
INTENSITY = 0.1  # of scale, and of shift in standard deviations of the brain
LINES = 4  # of a turned plane that are worked on together, so that they stay in the cache
STEPS = 2048  # of an interpolation's weight from 0 to 1, as many as float16 has up to 1


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
    """A patch without augmentation: image (4, *size) float16, label (*size) uint8.

    Args:
        image: (4, d, h, w) float16, possibly a memory map.
        label: (d, h, w) uint8.
        start: First voxel; the patch may reach beyond the volume.
        size: Size of the patch in voxels.
    """
    return mirrored_patch(image, label, start, size, (False, False, False))


def augmented_patch(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    augmentation: Augmentation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch of `plain_patch`, turned about its centre, mirrored, its intensities changed."""
    if augmentation.axis is not None:
        patch, labels = _turned(image, label, start, size, augmentation)
    else:
        patch, labels = mirrored_patch(image, label, start, size, augmentation.flips)
    scale, shift, numbers = augmentation.scale, augmentation.shift, augmentation.randomisation
    if numbers is not None:
        return randomise(patch, labels.numpy(), numbers, scale, shift), labels
    return _change_intensity(patch, scale, shift), labels


def mirrored_patch(
    image: Array, label: Array, start: tuple[int, ...], size: tuple[int, ...], flips: Sequence[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch of `plain_patch`, mirrored along the axes whose flip is true."""
    patch = huge_pages.empty((len(image), *size), image.dtype)
    labels = huge_pages.empty(size, label.dtype)
    for volume, region, fill in ((image, patch, BACKGROUND), (label, labels, 0)):
        _read(volume, start, region[_mirror(flips)], fill)
    return torch.from_numpy(patch), torch.from_numpy(labels)


def _mirror(flips: Sequence[bool]) -> tuple[Any, ...]:
    """The index that mirrors the last axes of an array along those whose flip is true."""
    return (..., *(slice(None, None, -1 if flip else 1) for flip in flips))


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


def _read(
    volume: Array, start: Sequence[int], region: Array, fill: float, planes: int | None = None
) -> None:
    """Fill a region (..., *size), of any memory layout, from a volume (..., d, h, w).

    Args:
        volume: The volume.
        start: First voxel of the region, which may lie outside.
        region: The region.
        fill: Value beyond the volume.
        planes: Axis of the volume along which to copy plane after plane; None: all at once.
    """
    source, target, whole = overlap(start, region.shape[-3:], volume.shape)
    if not whole:
        region[...] = fill
    if planes is None:
        region[target] = volume[source]
    else:
        _rearrange(volume[source], region[target], planes - 3, 1)


def _rearrange(source: Array, target: Array, along: int, count: int) -> None:
    """Copy `count` planes at a time, which stay in the processor's cache while axes change places.

    A whole patch that is copied at once into another order of its axes takes four times as long.
    """
    source, target = np.moveaxis(source, along, 0), np.moveaxis(target, along, 0)
    for first in range(0, len(source), count):
        planes = slice(first, first + count)
        target[planes] = np.ascontiguousarray(source[planes])


def _change_intensity(patch: torch.Tensor, scale: Array, shift: Array) -> torch.Tensor:
    """Scale and shift (4, *size) float16 inside the brain, in place; the background stays 0."""
    rows = max(1, CACHED // 2 // patch[:, 0].numel())
    singles = torch.empty((rows, *patch.shape[2:]))
    for slab in patch.split(rows, dim=1):
        inside = inside_brain(slab).to(torch.int16).neg_()
        for values, factor, summand in zip(slab, scale.tolist(), shift.tolist(), strict=True):
            changed = singles[: len(values)].copy_(values).mul_(factor).add_(summand)
            values.copy_(changed).view(torch.int16).bitwise_and_(inside)
    return patch


def _turned(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    augmentation: Augmentation,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate about one axis through the patch's centre, and mirror.

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
    wide_start = list(start)
    for a, n in zip((first, second), reach, strict=True):
        wide_start[a] = start[a] - (n - size[a]) // 2
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
    # The turning plane in front, modalities and axis behind: a weight acts on a whole row at once.
    rows = huge_pages.empty((*reach, len(image), size[axis]), image.dtype)
    label_rows = huge_pages.empty((*reach, size[axis]), label.dtype)
    mirror = _mirror([flips[axis] and a == axis for a in range(3)])
    region = np.moveaxis(rows, (0, 1, 2, 3), (first + 1, second + 1, 0, axis + 1))
    _read(image, wide_start, region[mirror], BACKGROUND, planes=first)
    _read(label, wide_start, np.moveaxis(label_rows, 2, axis)[mirror], 0, planes=first)
    patch = huge_pages.empty((len(image), *size), image.dtype)
    order = np.moveaxis(patch, (first + 1, second + 1, 0, axis + 1), (0, 1, 2, 3))
    table = torch.from_numpy(rows).view(reach[0] * reach[1], -1)
    corners, weights = _bilinear(x, y, reach[1])
    for place in range(0, plane[0], LINES):  # the kernel sums four weighted rows, in float32
        lines = slice(place, place + LINES)
        turned = functional.embedding_bag(
            corners[lines].flatten(0, 1),
            table,
            per_sample_weights=weights[lines].flatten(0, 1),
            mode="sum",
        )
        order[lines] = turned.view(-1, *order.shape[1:]).numpy()
    nearest = label_rows[np.rint(x).astype(np.intp), np.rint(y).astype(np.intp)]
    labels = huge_pages.empty(size, label.dtype)
    _rearrange(np.moveaxis(nearest, 2, axis), labels, first, LINES)
    return torch.from_numpy(patch), torch.from_numpy(labels)


def _bilinear(x: Array, y: Array, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four corners around points (a, b), and their weights, float16: both (a, b, 4).

    Args:
        x: First coordinates.
        y: Second coordinates.
        width: Points along the second coordinate; corners are counted row after row.
    """
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    right, below = x - left, y - top
    corner = left * width + top
    corners = np.stack([corner, corner + 1, corner + width, corner + width + 1], axis=-1)
    shares = [(1 - right) * (1 - below), (1 - right) * below, right * (1 - below), right * below]
    # In float16 exact, and 1 in sum: a constant image stays what it is.
    weights = np.rint(np.stack(shares, axis=-1) * STEPS) / STEPS
    largest = weights.argmax(-1)[..., None]
    rest = 1 - weights.sum(-1, keepdims=True)
    np.put_along_axis(weights, largest, np.take_along_axis(weights, largest, -1) + rest, -1)
    return torch.from_numpy(corners), torch.from_numpy(weights.astype(np.float16))
