"""Randomisation of patches and slices as if another scanner had taken them.

After the idea of SynthSeg (Billot et al., Medical Image Analysis 2023,
doi:10.1016/j.media.2023.102789): a network that sees contrasts beyond those of any scanner copes
with real ones. There the images are synthesised from label maps; here the images exist, and are
changed by a bias field, drift along the axes, gamma, blobs of other brightness that no label names,
blur or sharpening along one axis, and noise. The ranges were chosen for phantoms that are tested on
real patients.

Intensities arrive as z-scores, which have no sign to multiply. They are therefore read as
`1 + VARIATION * z`, the intensity relative to the brain's mean, and the changed intensities are
brought back to the mean and deviation that the image's brain had, as a z-score over the brain would
do. What multiplies is a sum of logarithms on a lattice of `NODE` mm, interpolated linearly.

Drawing is separate from applying: `draw_randomisation` takes the random numbers, `randomise`
applies them to patches and slices.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from datamodules import huge_pages
from datamodules.cases.intensity import BACKGROUND
from errors import InputError

Array = npt.NDArray[Any]
Kind = bool | Literal["randomised"]  # of augmentation

# Deviation over mean inside the brain of t1, t1ce, t2 and flair: medians of eight real patients.
VARIATION = (0.22, 0.25, 0.39, 0.28)
DARKEST = 0.05  # of the mean: where the logarithm starts
NODE = 8.0  # mm between nodes of the lattice: linear between them, a blob of 20 mm keeps its shape
BIAS = 0.35  # largest deviation of the logarithm of the bias field
KNOTS = (50.0, 140.0)  # mm
SHARED = 0.5  # of the bias field's variance that all modalities have in common
LINEAR, QUADRATIC = 0.2, 0.14  # largest log factor at `HALF_HEAD` from the middle of the image
HALF_HEAD = 80.0  # mm
GAMMA = 0.25  # deviation of the logarithm of the exponent
BLOBS = 4  # at most
BLOB_WIDTH = (20.0, 60.0)  # mm, full width at half maximum along each axis
BLOB = 0.25  # deviation of the log factor in a blob's middle
BLURRED, SHARPENED = 0.2, 0.1  # probabilities for each modality
SIGMA = (0.3, 1.2)  # voxels
SHARPENING = 0.6  # largest share of the difference to the blurred image that is added
NOISE = 0.15  # largest deviation, of the brain's mean
CACHED = 1 << 20  # values that are worked on together, so that they stay in the processor's cache
_TABLE = 1 << 19  # stored random numbers
_MEAN = 1 / torch.tensor(VARIATION)[:, None, None]  # distance from no signal, in deviations
_DARKEST = DARKEST * _MEAN
_SPLINE_GAIN = 0.479365**-0.5  # per axis: restores the variance that a cubic B-spline takes


@dataclass(frozen=True)
class Randomisation:
    """The random numbers of one image with A axes.

    Args:
        extent: mm along each axis.
        knot: Distance of the bias field's knots, mm.
        bias: Logarithms at the knots, (4, *knots).
        linear: Log factor at `HALF_HEAD` along each axis (4, A), of opposite sign at the other end.
        quadratic: Log factor at `HALF_HEAD` along each axis (4, A), equal at both ends.
        gamma: Exponent for each modality (4,).
        centres: Middles of the blobs along each axis, mm from the image's first edge (blobs, A).
        widths: Their full widths at half maximum, mm (blobs, A).
        heights: Logarithms of the factors in their middles (blobs, 4).
        axis: Axis along which each modality is blurred or sharpened (4,).
        sigma: Width of that filter, voxels (4,).
        sharpening: Share of the difference to the blurred image that is added (4,); -1 blurs.
        noise: Deviation of the noise, of the brain's mean (4,).
        noise_seed: Seed of the noise.
    """

    extent: tuple[float, ...]
    knot: float
    bias: npt.NDArray[np.float32]
    linear: npt.NDArray[np.float32]
    quadratic: npt.NDArray[np.float32]
    gamma: npt.NDArray[np.float32]
    centres: npt.NDArray[np.float32]
    widths: npt.NDArray[np.float32]
    heights: npt.NDArray[np.float32]
    axis: npt.NDArray[np.int64]
    sigma: npt.NDArray[np.float32]
    sharpening: npt.NDArray[np.float32]
    noise: npt.NDArray[np.float32]
    noise_seed: int


def check_kind(augmentation: bool | str, others: Sequence[str] = ("randomised",)) -> None:
    """Refuse another value of `data.augmentation` than true, false and some names.

    Args:
        augmentation: The value.
        others: The names.

    Raises:
        InputError: It is another one.
    """
    if not isinstance(augmentation, bool) and augmentation not in others:
        raise InputError(
            f"data.augmentation is {augmentation!r}: expected true, false or {' or '.join(others)}."
        )


def draw_randomisation(rng: np.random.Generator, extent: tuple[float, ...]) -> Randomisation:
    """Random numbers for one image of four modalities.

    Args:
        rng: Their source.
        extent: mm along each axis.
    """
    axes, single = len(extent), np.float32
    knot = rng.uniform(*KNOTS)
    lattice = [int(np.ceil(length / knot)) + 3 for length in extent]
    common, *own = rng.standard_normal((5, *lattice), single)
    height = single(rng.uniform(0, BIAS) * _SPLINE_GAIN**axes)
    chance = rng.random(4)
    sharpening = np.where(chance < SHARPENED, rng.uniform(0, SHARPENING, 4), 0.0)
    blobs = int(rng.integers(BLOBS + 1))
    return Randomisation(
        extent=extent,
        knot=knot,
        bias=height * (single(SHARED**0.5) * common + single((1 - SHARED) ** 0.5) * np.stack(own)),
        linear=rng.uniform(-LINEAR, LINEAR, (4, axes)).astype(single),
        quadratic=rng.uniform(-QUADRATIC, QUADRATIC, (4, axes)).astype(single),
        gamma=np.exp(rng.normal(0, GAMMA, 4)).astype(single),
        centres=rng.uniform(0, extent, (blobs, axes)).astype(single),
        widths=rng.uniform(*BLOB_WIDTH, (blobs, axes)).astype(single),
        heights=rng.normal(0, BLOB, (blobs, 4)).astype(single),
        axis=rng.integers(axes, size=4),
        sigma=rng.uniform(*SIGMA, 4).astype(single),
        sharpening=np.where(chance > 1 - BLURRED, -1.0, sharpening).astype(single),
        noise=rng.uniform(0, NOISE, 4).astype(single),
        noise_seed=int(rng.integers(2**31)),
    )


def randomise(
    image: torch.Tensor,
    tumour: Array,
    numbers: Randomisation,
    scale: npt.NDArray[np.float32],
    shift: npt.NDArray[np.float32],
) -> torch.Tensor:
    """Return the changed image, float16; the background stays 0, and no voxel of brain becomes it.

    A modality that shows nothing, or one value only, stays as it is.

    Args:
        image: (4, *size) z-scores, float16, contiguous.
        tumour: (*size) bool or uint8, not 0 where no blob may reach.
        numbers: What to do.
        scale: Factor a modality (4,), applied last.
        shift: Summand a modality (4,), in z-scores, applied last.
    """
    size = image.shape[1:]
    result = torch.from_numpy(huge_pages.empty(tuple(image.shape), np.float16))
    old, new = (values.view(len(image), size[0], -1) for values in (image, result))
    steps = [max(1, round(NODE * n / edge)) for n, edge in zip(size, numbers.extent, strict=True)]
    logs = _log_fields(tumour, steps, numbers)
    factors, summands = _back_to_scores(image, logs, steps, numbers)
    shown = np.flatnonzero(factors).tolist()
    factors, summands = factors * scale, summands * scale + shift
    # A factor's logarithm on the lattice costs less than a product for every voxel.
    logs += np.log(np.where(factors > 0, factors, 1)).reshape(-1, *[1] * len(size))
    fields, weights = _interpolated(logs, steps, size)
    noise = (numbers.noise * factors).tolist()
    offset = torch.from_numpy(summands)[:, None, None]
    rng = np.random.default_rng(numbers.noise_seed)
    rows = max(1, CACHED // old[:, 0].numel())
    changed = torch.empty((len(image), min(rows, size[0]), old.shape[2]))
    for first in range(0, size[0], rows):
        slab = slice(first, min(first + rows, size[0]))
        inside = inside_brain(old[:, slab]).to(torch.int16)
        changed = changed[:, : len(inside)]
        for modality in range(len(image)):
            _filtered(image[modality], slab, modality, numbers, changed[modality])
        _multiply(changed, fields, weights[slab], numbers)
        for values, deviation in zip(changed, noise, strict=True):
            add_noise(values, deviation, rng)
        bits = new[:, slab].copy_(changed.add_(offset)).view(torch.int16)
        if shown:  # a lowest bit tells a brain's voxel of 0 from the background
            bits[shown[0]].bitwise_or_(inside)
        bits.bitwise_and_(inside.neg_())
    for modality in set(range(len(image))) - set(shown):
        result[modality] = image[modality]
    return result


def inside_brain(values: torch.Tensor) -> torch.Tensor:
    """Whether a voxel lies inside the brain: z-scores (4, *S) to bool (*S)."""
    # The background is 0.0, whose bits are all 0: a voxel of brain has a bit set in some modality.
    bits = values.view(torch.int16 if values.element_size() == 2 else torch.int32)
    return reduce(torch.bitwise_or, bits) != 0


def _multiply(
    relative: torch.Tensor, fields: torch.Tensor, weights: torch.Tensor, numbers: Randomisation
) -> None:
    """Apply gamma and all that multiplies to z-scores (4, rows, rest) in place.

    They become intensities relative to the brain's mean.
    """
    # `relative / variation`, whose logarithm differs by a constant that `fields` make up for.
    relative.add_(_MEAN)
    torch.maximum(relative, _DARKEST, out=relative)
    first, last = weights[0].argmax(), weights[-1].argmax()
    nodes = slice(max(int(first) - 1, 0), int(last) + 2)
    for values, field, gamma in zip(relative.log_(), fields, numbers.gamma, strict=True):
        values.addmm_(weights[:, nodes], field[nodes], beta=float(gamma))
    relative.exp_()


def _back_to_scores(
    image: torch.Tensor, logs: Array, steps: list[int], numbers: Randomisation
) -> tuple[Array, Array]:
    """Factors and summands (4,) that bring modalities back to the brain's mean and deviation.

    Both are estimated at the nodes. A factor is 0 where a modality shows nothing, or one value
    only. Blur and sharpening change too little to count.
    """
    nodes = image[(slice(None), *(slice(None, None, step) for step in steps))]
    values = nodes.float().numpy()
    logs = logs[(slice(None), *(slice(n) for n in values.shape[1:]))]
    brain = (values != BACKGROUND).any(0)
    if not brain.any():
        return np.zeros(4, np.float32), np.zeros(4, np.float32)
    values, logs = values[:, brain], logs[:, brain]
    relative = np.maximum(values + _MEAN.numpy()[:, 0], _DARKEST.numpy()[:, 0])
    changed = np.exp(numbers.gamma[:, None] * np.log(relative) + logs)
    factors = values.std(1) / np.hypot(changed.std(1), np.maximum(numbers.noise, 1e-6))
    return factors, values.mean(1) - changed.mean(1) * factors


def _log_fields(tumour: Array, steps: list[int], numbers: Randomisation) -> Array:
    """Logarithm of all that multiplies (4, *nodes), a node every `steps` voxels."""
    axes = len(steps)
    nodes = [-(-(n - 1) // step) + 1 for n, step in zip(tumour.shape, steps, strict=True)]
    edges = [np.float32(mm / n) for mm, n in zip(numbers.extent, tumour.shape, strict=True)]
    places = [
        (np.arange(count, dtype=np.float32) * step + np.float32(0.5)) * edge
        for count, step, edge in zip(nodes, steps, edges, strict=True)
    ]
    logs = numbers.bias
    for axis in reversed(range(axes)):
        spline = _spline(places[axis], numbers.knot, logs.shape[axis + 1])
        before, after = logs.shape[: axis + 1], logs.shape[axis + 2 :]
        mixed = spline @ logs.reshape(-1, spline.shape[1], int(np.prod(after)))
        logs = mixed.reshape(*before, nodes[axis], *after)
    for axis, place in enumerate(places):
        x = (place - np.float32(numbers.extent[axis] / 2)) / np.float32(HALF_HEAD)
        drift = numbers.linear[:, axis, None] * x + numbers.quadratic[:, axis, None] * x**2
        logs += drift.reshape(4, *(-1 if a == axis else 1 for a in range(axes)))
    if len(numbers.centres):
        logs += _blobs(places, _free(tumour, steps, nodes), numbers)
    # Gamma acts on `relative / variation`, see `_multiply`.
    logs += (numbers.gamma * np.log(np.array(VARIATION, np.float32))).reshape(4, *[1] * axes)
    return logs


def _interpolated(
    logs: Array, steps: list[int], size: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Interpolate (4, *nodes) linearly along all axes but the first.

    Returns:
        Fields (4, nodes, rest), and weights (size, nodes) that interpolate along the first axis.
    """
    weights = [
        _linear(n, step, count) for n, step, count in zip(size, steps, logs.shape[1:], strict=True)
    ]
    fields = torch.from_numpy(logs) @ weights[-1].T
    if len(size) == 3:
        fields = weights[1] @ fields
    return fields.view(4, logs.shape[1], -1), weights[0]


def _spline(place: Array, knot: float, count: int) -> Array:
    """Weights (places, count) of cubic B-splines whose knots lie `knot` mm apart."""
    distance = np.abs(
        place[:, None] / np.float32(knot) - np.arange(-1, count - 1, dtype=np.float32)
    )
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


@lru_cache(maxsize=16)
def _linear(n: int, step: int, nodes: int) -> torch.Tensor:
    """Weights (n, nodes) that interpolate linearly between nodes `step` voxels apart."""
    distance = np.abs(np.arange(n)[:, None] / step - np.arange(nodes))
    return torch.from_numpy(np.maximum(1 - distance, 0).astype(np.float32))


def _free(tumour: Array, steps: list[int], nodes: list[int]) -> Array:
    """1 at nodes that no voxel of the tumour is interpolated from, 0 at the others."""
    taken = tumour
    for axis, (step, count) in enumerate(zip(steps, nodes, strict=True)):
        starts = range(0, max(count - 1, 1) * step, step)
        pieces = [taken[(slice(None),) * axis + (slice(n, n + step),)] for n in starts]
        cells = [np.bitwise_or.reduce(piece, axis) for piece in pieces]
        ends = [cells[0], *(one | other for one, other in itertools.pairwise(cells)), cells[-1]]
        taken = np.stack(ends[:count], axis)
    return taken == 0


def _blobs(places: list[Array], free: Array, numbers: Randomisation) -> Array:
    """Sum of the logarithms of all blobs whose middle is free, where they are: (4, *nodes)."""
    profiles, nearest = [], []
    for place, centre, width in zip(places, numbers.centres.T, numbers.widths.T, strict=True):
        distance = np.abs(place - centre[:, None])  # (blobs, nodes)
        profiles.append(np.exp(np.float32(-4 * np.log(2)) * (distance / width[:, None]) ** 2))
        nearest.append(distance.argmin(1))
    heights = numbers.heights * free[tuple(nearest)][:, None]
    front = (heights[:, :, None] * profiles[0][:, None]).reshape(len(heights), -1)
    back = reduce(lambda one, other: one[..., None] * other[:, None], profiles[1:])
    return (front.T @ back.reshape(len(heights), -1)).reshape(4, *free.shape) * free


def _filtered(
    values: torch.Tensor, slab: slice, modality: int, numbers: Randomisation, out: torch.Tensor
) -> None:
    """Write rows of one modality, blurred or sharpened.

    Args:
        values: (*size) z-scores.
        slab: The rows.
        modality: Its number.
        numbers: The filter; voxels that it would reach beyond the image from stay as they are.
        out: (rows, rest) float32, filled.
    """
    weights = _kernel(float(numbers.sigma[modality]), float(numbers.sharpening[modality]))
    axis, reach = int(numbers.axis[modality]), len(weights) - 1
    rows, first = out.view(-1, *values.shape[1:]), 0
    filled = rows.copy_(values[slab])
    if axis == 0:
        first = max(slab.start - reach, 0)
        rows = values[first : slab.stop + reach].float()
        first -= slab.start
    n = rows.shape[axis] - 2 * reach
    if reach == 0 or n < 1:
        return
    total = rows.narrow(axis, reach, n) * weights[0]
    for distance in range(1, reach + 1):
        for start in (reach - distance, reach + distance):
            total.add_(rows.narrow(axis, start, n), alpha=weights[distance])
    filled.narrow(axis, first + reach, n).copy_(total)


@lru_cache(maxsize=64)
def _kernel(sigma: float, sharpening: float) -> tuple[float, ...]:
    """Weights of the middle voxel and of those beside it, towards one end."""
    if sharpening == 0:
        return (1.0,)
    distance = np.arange(int(np.ceil(2 * sigma)) + 1)
    blur = np.exp(-0.5 * (distance / sigma) ** 2)
    blur /= blur[0] + 2 * blur[1:].sum()
    weights = -sharpening * blur
    weights[0] += 1 + sharpening
    return tuple(weights.tolist())


def add_noise(values: torch.Tensor, deviation: float, rng: np.random.Generator) -> None:
    """Add normal noise in place, pieces of a table: drawing numbers anew is slow.

    Args:
        values: Contiguous, float32.
        deviation: Of the noise.
        rng: Chooses the pieces.
    """
    table, flat = _normal_numbers(), values.view(-1)
    for first in range(0, len(flat), _TABLE // 2):
        piece = flat[first : first + _TABLE // 2]
        start = int(rng.integers(_TABLE - len(piece)))
        piece.add_(table[start : start + len(piece)], alpha=deviation)


@lru_cache(maxsize=1)
def _normal_numbers() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(_TABLE, np.float32))
