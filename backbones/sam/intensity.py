"""The range of grey values that a frozen base was trained on, from slices of z-scores."""

import torch

from backbones.sam.variants import Intensity

# Of the photographs that SAM was trained on, as shares of white: red, green, blue.
MEAN = (0.4850, 0.4560, 0.4060)
DEVIATION = (0.2290, 0.2240, 0.2250)


def to_range(image: torch.Tensor, intensity: Intensity) -> torch.Tensor:
    """Return slices (B, M, H, W) of z-scores, 0 outside the brain, in the range of a base.

    Each modality of a slice goes from 0 at the least to 1 at the largest value inside the brain;
    the background is black, 0. For bases that take z-scores nothing changes.

    Args:
        image: slices, in which exactly 0 is background.
        intensity: the range of the base.
    """
    if intensity == "z-score":
        return image
    brain = image != 0
    largest = torch.finfo(image.dtype).max
    low = image.masked_fill(~brain, largest).amin(dim=(2, 3), keepdim=True)
    high = image.masked_fill(~brain, -largest).amax(dim=(2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return torch.where(brain, (image - low) / span, 0.0)


def to_colours(colours: torch.Tensor, intensity: Intensity) -> torch.Tensor:
    """Return three colours (B, 3, H, W) from 0 to 1 as the base's encoder takes them.

    Args:
        colours: red, green and blue.
        intensity: the range of the base.
    """
    if intensity != "photograph":
        return colours
    mean, deviation = (colours.new_tensor(one).view(1, 3, 1, 1) for one in (MEAN, DEVIATION))
    return (colours - mean) / deviation
