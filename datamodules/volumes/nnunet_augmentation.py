"""nnU-Net's augmentation of a patch, in the order and with the ranges of its trainer.

Rotation about three axes and scaling, noise, blur, brightness, contrast, low resolution, gamma
twice (of the inverted image, then of the image) and mirroring: the list of `nnUNetTrainer` in
nnU-Net 2 (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z), written anew for
speed: `speed/data/nnunet_patches.py` compares with its own library. What differs: means, extremes
and deviations are those of the brain, not of the patch with the air around it, and a turned label
takes its nearest voxel.

Drawing is separate from applying: `draw_nnunet` takes the random numbers, `nnunet_patch` applies
them, so the same numbers replay the same patch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from datamodules import huge_pages
from datamodules.cases.intensity import BACKGROUND
from datamodules.training.randomisation import add_noise, inside_brain
from datamodules.volumes.augmentation import mirrored_patch, overlap

Array = npt.NDArray[Any]
CHANNELS = 4
TURNED, ROTATION = 0.2, 30.0  # probability; degrees about each axis, in either direction
SCALED, SCALE = 0.2, (0.7, 1.4)  # above 1 objects become smaller
NOISY, NOISE = 0.1, 0.1  # deviation of the noise at most, z-scores
BLURRED, SIGMA = 0.2, (0.5, 1.0)  # voxels
BRIGHTENED, CONTRASTED, FACTOR = 0.15, 0.15, (0.75, 1.25)
COARSENED, COARSE = 0.25, (0.5, 1.0)  # share of the voxels along an axis that is left
INVERTED, CORRECTED, GAMMA = 0.1, 0.3, (0.7, 1.5)
MIRRORED = 0.5
IN_A_MODALITY = 0.5  # probability of a drawn blur or low resolution in each modality
TAILS = 3.0  # of a blur's kernel, in deviations
TINY = 1e-7


@dataclass(frozen=True)
class NnunetNumbers:
    """The random numbers of one patch; what is not done to it is None, or 1 in one modality.

    Args:
        matrix: Offset from the patch's centre to that in the volume, voxels (3, 3); rotation,
            scaling and mirroring.
        flips: Axes that are mirrored, where there is no matrix.
        noise: Deviation of the noise, z-scores.
        noise_seed: Its seed.
        sigma: Width of the blur of each modality along each axis (4, 3), voxels; 0: none.
        brightness: Factors (4,).
        contrast: Factors of the distance from the mean (4,).
        coarse: Share of voxels that is left along each axis (4,).
        inverted_gamma: Exponents for the inverted image (4,).
        gamma: Exponents (4,).
    """

    matrix: Array | None
    flips: tuple[bool, bool, bool]
    noise: float | None
    noise_seed: int
    sigma: Array | None
    brightness: Array | None
    contrast: Array | None
    coarse: Array | None
    inverted_gamma: Array | None
    gamma: Array | None

    @property
    def changes_intensity(self) -> bool:
        """Whether anything is done but reading voxels from elsewhere."""
        rest = (self.noise, self.sigma, self.brightness, self.contrast, self.coarse)
        return any(one is not None for one in (*rest, self.inverted_gamma, self.gamma))


def draw_nnunet(rng: np.random.Generator) -> NnunetNumbers:
    """Random numbers for one patch of four modalities.

    Args:
        rng: Their source.
    """
    turned, scaled = rng.random(2) < (TURNED, SCALED)
    angles = np.deg2rad(rng.uniform(-ROTATION, ROTATION, 3)) * turned
    scale = rng.uniform(*SCALE) if scaled else 1.0
    left, front, low = (bool(flip) for flip in rng.random(3) < MIRRORED)
    noisy, blurred, brightened, contrasted, coarsened, inverted, corrected = rng.random(7) < (
        *(NOISY, BLURRED, BRIGHTENED, CONTRASTED, COARSENED, INVERTED, CORRECTED),
    )
    noise, noise_seed = rng.uniform(0, NOISE), int(rng.integers(2**31))
    sigma = rng.uniform(*SIGMA, (CHANNELS, 3)) * (rng.random((CHANNELS, 1)) < IN_A_MODALITY)
    brightness, contrast = _factors(rng, FACTOR), _factors(rng, FACTOR)
    coarse = np.where(rng.random(CHANNELS) < IN_A_MODALITY, rng.uniform(*COARSE, CHANNELS), 1.0)
    inverted_gamma, gamma = _factors(rng, GAMMA), _factors(rng, GAMMA)
    signs = np.where([left, front, low], -1.0, 1.0)
    return NnunetNumbers(
        matrix=rotation(angles) * scale * signs if turned or scaled else None,
        flips=(left, front, low),
        noise=float(noise) if noisy else None,
        noise_seed=noise_seed,
        sigma=sigma if blurred else None,
        brightness=brightness if brightened else None,
        contrast=contrast if contrasted else None,
        coarse=coarse if coarsened else None,
        inverted_gamma=inverted_gamma if inverted else None,
        gamma=gamma if corrected else None,
    )


def nnunet_patch(
    image: Array,
    label: Array,
    start: tuple[int, ...],
    size: tuple[int, ...],
    numbers: NnunetNumbers,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A changed patch: image (4, *size) float16, label (*size) uint8.

    Args:
        image: (4, d, h, w) float16, possibly a memory map.
        label: (d, h, w) uint8.
        start: First voxel; the patch may reach beyond the volume.
        size: Size of the patch in voxels.
        numbers: What to do.
    """
    if numbers.matrix is not None:
        patch, labels = _turned(image, label, start, size, numbers.matrix)
    else:
        halves, labels = mirrored_patch(image, label, start, size, numbers.flips)
        if not numbers.changes_intensity:
            return halves, labels
        patch = torch.from_numpy(huge_pages.empty(tuple(halves.shape), np.float32)).copy_(halves)
    if numbers.changes_intensity:
        inside = inside_brain(patch).float()
        if inside.any():
            _change(patch, inside, numbers)
            patch *= inside
    return patch.half(), labels


def rotation(angles: Array) -> Array:
    """The matrix (3, 3) that turns about the three axes in turn, by radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _factors(rng: np.random.Generator, limits: tuple[float, float]) -> Array:
    """A factor a modality (4,), below and above 1 with equal probability."""
    below = rng.random(CHANNELS) < 0.5
    low, high = limits
    return np.where(below, rng.uniform(low, 1, CHANNELS), rng.uniform(1, high, CHANNELS))


def _turned(
    image: Array, label: Array, start: tuple[int, ...], size: tuple[int, ...], matrix: Array
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a patch through a matrix: the image linearly, the label at its nearest voxel."""
    sides = np.asarray(size)
    reach = np.ceil(np.abs(matrix) @ sides / 2).astype(int) + 1  # from the centre, each way
    centre = np.asarray(start) + (sides - 1) / 2
    lowest = np.floor(centre - reach).astype(int)
    wide = tuple(int(n) for n in 2 * reach + 1)
    source, _, _ = overlap(tuple(lowest.tolist()), wide, image.shape)
    region = torch.from_numpy(np.ascontiguousarray(image[source])).float()
    if not region.numel():
        empty = huge_pages.empty((len(image), *size), np.float32)
        return torch.from_numpy(empty).fill_(BACKGROUND), torch.zeros(size, dtype=torch.uint8)
    first = np.array([part.start for part in source[1:]])
    extent = np.array(region.shape[1:])
    # `grid_sample` counts from -1 at a region's first edge to 1 at its last, and axes backwards
    linear = matrix * sides / extent[:, None]
    offset = (2 * (centre - first) + 1) / extent - 1
    theta = np.concatenate([linear[::-1, ::-1], offset[::-1, None]], axis=1)
    grid = functional.affine_grid(
        torch.from_numpy(theta[None].astype(np.float32)), [1, 1, *size], align_corners=False
    )
    turned = functional.grid_sample(region[None], grid, align_corners=False)[0]
    labels = torch.from_numpy(np.ascontiguousarray(label[source])).float()
    nearest = functional.grid_sample(labels[None, None], grid, "nearest", align_corners=False)
    return turned, nearest[0, 0].to(torch.uint8)


def _change(patch: torch.Tensor, inside: torch.Tensor, numbers: NnunetNumbers) -> None:
    """Change the intensities of a patch (4, *size) in place.

    Args:
        patch: The patch.
        inside: 1 in the brain, 0 elsewhere (*size), float32.
        numbers: What to do.
    """
    if numbers.noise is not None:
        rng = np.random.default_rng(numbers.noise_seed)
        for values in patch:
            add_noise(values, numbers.noise, rng)
    for modality, values in enumerate(patch):
        if numbers.sigma is not None and numbers.sigma[modality].any():
            for axis, sigma in enumerate(numbers.sigma[modality]):
                _blur(values, axis, float(sigma))
        if numbers.brightness is not None:
            values *= float(numbers.brightness[modality])
        if numbers.contrast is not None:
            mean, low, high = _level(values, inside)
            values.sub_(mean).mul_(float(numbers.contrast[modality])).add_(mean).clamp_(low, high)
        if numbers.coarse is not None and numbers.coarse[modality] < 1:
            values.copy_(_coarse(values, float(numbers.coarse[modality])))
        if numbers.inverted_gamma is not None:
            values.neg_()
            _correct(values, inside, float(numbers.inverted_gamma[modality]))
            values.neg_()
        if numbers.gamma is not None:
            _correct(values, inside, float(numbers.gamma[modality]))


def _level(values: torch.Tensor, inside: torch.Tensor) -> tuple[float, float, float]:
    """Mean, lowest and highest value inside; elsewhere the values (*size) become the mean."""
    mean = _mean(values, inside)
    # A mask costs less than to pick the voxels and to put them back.
    values.sub_(mean).mul_(inside).add_(mean)
    low, high = torch.aminmax(values)
    return mean, float(low), float(high)


def _correct(values: torch.Tensor, inside: torch.Tensor, gamma: float) -> None:
    """Apply an exponent between the extremes inside, in place; mean and deviation stay."""
    mean, low, high = _level(values, inside)
    deviation = _deviation(values, inside, mean)
    values.sub_(low).div_(max(high - low, TINY)).clamp_(min=0).pow_(gamma)
    middle = _mean(values, inside)
    found = _deviation(values, inside, middle)
    values.sub_(middle).mul_(deviation / max(found, TINY)).add_(mean)


def _mean(values: torch.Tensor, inside: torch.Tensor) -> float:
    total = torch.dot(values.reshape(-1), inside.view(-1))
    return float(total / inside.sum())


def _deviation(values: torch.Tensor, inside: torch.Tensor, mean: float) -> float:
    distance = torch.linalg.vector_norm((values - mean) * inside)
    return float(distance / inside.sum().sqrt())


def _blur(values: torch.Tensor, axis: int, sigma: float) -> None:
    """Blur (*size) along an axis, in place; beyond the patch it is reflected."""
    reach = min(int(np.ceil(TAILS * sigma)), values.shape[axis] - 1)
    distance = np.arange(reach + 1)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    n = values.shape[axis]
    order = np.abs(np.arange(-reach, n + reach))
    order = np.where(order < n, order, 2 * (n - 1) - order)
    wide = values.index_select(axis, torch.from_numpy(order))
    values.mul_(float(weights[0]))
    for step in range(1, reach + 1):
        for first in (reach - step, reach + step):
            values.add_(wide.narrow(axis, first, n), alpha=float(weights[step]))


def _coarse(values: torch.Tensor, share: float) -> torch.Tensor:
    """Take a share of the voxels along every axis, then interpolate between them: (*size)."""
    size = list(values.shape)
    few = [max(1, round(n * share)) for n in size]
    taken = functional.interpolate(values[None, None], few, mode="nearest-exact")
    return functional.interpolate(taken, size, mode="trilinear")[0, 0]
