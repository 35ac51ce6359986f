"""Augmentation of a slice: rotation, flips, intensity, randomisation of what a scanner changes.

Drawing is separate from applying.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812, the name its own documentation uses

from datamodules.cases.intensity import BACKGROUND
from datamodules.training.randomisation import Randomisation, draw_randomisation, randomise
from datamodules.volumes.augmentation import (
    FLIP_PROBABILITY,
    INTENSITY,
    ROTATION_LIMIT,
    ROTATION_PROBABILITY,
)


@dataclass(frozen=True)
class SliceAugmentation:
    """The random numbers of one slice.

    Args:
        angle: Angle of the rotation about the slice's centre, radians; 0 for none.
        flips: Whether rows, and columns, are mirrored.
        scale: Factor a modality (4,).
        shift: Summand a modality (4,), in z-scores.
        randomisation: Further random numbers of a randomised slice.
    """

    angle: float
    flips: tuple[bool, bool]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.float32]
    randomisation: Randomisation | None = None


def draw_slice(
    rng: np.random.Generator, extent: tuple[float, ...] | None = None
) -> SliceAugmentation:
    """Random numbers for one slice, in the ranges of the 3-D patches.

    Args:
        rng: Their source.
        extent: mm along rows and columns of a slice that is randomised; None: it is not.
    """
    turned = rng.random() < ROTATION_PROBABILITY
    angle = np.deg2rad(rng.uniform(-ROTATION_LIMIT, ROTATION_LIMIT))
    rows, columns = (bool(flip) for flip in rng.random(2) < FLIP_PROBABILITY)
    return SliceAugmentation(
        angle=float(angle) if turned else 0.0,
        flips=(rows, columns),
        scale=rng.uniform(1 - INTENSITY, 1 + INTENSITY, 4).astype(np.float32),
        shift=rng.uniform(-INTENSITY, INTENSITY, 4).astype(np.float32),
        randomisation=draw_randomisation(rng, extent) if extent is not None else None,
    )


def augment_slice(
    image: torch.Tensor, label: torch.Tensor, augmentation: SliceAugmentation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn a slice about its centre, mirror it, change its intensities inside the brain.

    The image is interpolated linearly, the label takes its nearest pixel; the background stays.

    Args:
        image: (4, H, W) z-scores, float16.
        label: (H, W) uint8.
        augmentation: What to do.
    """
    flipped = [axis for axis, flip in zip((-2, -1), augmentation.flips, strict=True) if flip]
    if flipped:
        image, label = image.flip(flipped), label.flip(flipped)
    if augmentation.angle:
        image, label = _turn(image, label, augmentation.angle)
    if augmentation.randomisation is not None:
        numbers, halves = augmentation.randomisation, image.half().contiguous()
        changes = (augmentation.scale, augmentation.shift)
        return randomise(halves, label.numpy(), numbers, *changes), label
    shown = (image != BACKGROUND).flatten(1).any(1)[:, None, None]  # a missing modality stays so
    brain = (image != BACKGROUND).any(0) & shown
    scale, shift = (
        torch.from_numpy(values)[:, None, None]
        for values in (augmentation.scale, augmentation.shift)
    )
    changed = image * scale + shift
    return torch.where(brain, changed, BACKGROUND).half(), label


def _turn(
    image: torch.Tensor, label: torch.Tensor, angle: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn image and label, float16 and uint8; the image becomes float32.

    The background does not bleed into the brain: bases that see grey values from 0 to 1 would see
    the mixture of the two as a bright rim.
    """
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    turn = torch.tensor([[[cosine, -sine, 0.0], [sine, cosine, 0.0]]])
    grid = F.affine_grid(turn, [1, 1, *image.shape[1:]], align_corners=False)
    brain = (image != BACKGROUND).any(0, keepdim=True)
    # `grid_sample` fills with 0 beyond the slice, so the background is made 0 for it.
    layers = torch.cat([image.float() - BACKGROUND, brain.float()])
    turned, share = F.grid_sample(layers[None], grid, align_corners=False)[0].split([4, 1])
    filled = torch.where(share > 0.5, turned / share.clamp_min(0.5), 0.0) + BACKGROUND
    nearest = F.grid_sample(label[None, None].float(), grid, mode="nearest", align_corners=False)
    return filled, nearest[0, 0].to(torch.uint8)
