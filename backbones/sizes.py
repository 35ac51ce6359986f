"""Checks that all backbones share: named sizes, normalisations and patch sizes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import torch

from errors import InputError

Size = Literal["tiny", "base"]
NormName = Literal["batch", "instance", "group"]
Preset = TypeVar("Preset")


def preset_of(network: str, presets: Mapping[str, Preset], size: str) -> Preset:
    """Return the preset called `size`.

    Raises:
        InputError: no such size.
    """
    if size not in presets:
        raise InputError(
            f"{network} has no size {size!r}: set `size` to one of {', '.join(sorted(presets))}."
        )
    return presets[size]


def norm_layer(network: str, norm: str, width: int) -> tuple[str, dict[str, Any]]:
    """Return MONAI's (name, arguments) of a normalisation.

    Args:
        network: name used in the error.
        norm: `batch`, `instance` (without learned scale and shift, as in the paper's code) or
            `group`.
        width: channels at full resolution; `group` puts two of them in a group, which at the
            16 channels of SegResNet are MONAI's own eight groups.

    Raises:
        InputError: no such normalisation.
    """
    layers: dict[str, tuple[str, dict[str, Any]]] = {
        "batch": ("BATCH", {}),
        "instance": ("INSTANCE", {}),
        "group": ("GROUP", {"num_groups": width // 2}),
    }
    if norm not in layers:
        raise InputError(
            f"{network} has no normalisation {norm!r}: set `norm` to one of {', '.join(layers)}, "
            "or leave it out for the default of the size."
        )
    return layers[norm]


class Sized(Protocol):
    """Interface of a U-shaped network: named size, modalities, stride of its coarsest grid.

    Where axes differ it also has their `reduction`; one without named sizes has `has_sizes` False.
    """

    size: Size
    in_channels: int
    total_stride: int


def check_image(network: Sized, image: torch.Tensor) -> None:
    """Check that an image (B, in_channels, D, H, W) passes through a U-shaped network.

    Every side has to leave two voxels on the coarsest grid, because one voxel has no variance.

    Raises:
        InputError: another number of axes or channels, or a side too short or not divisible.
    """
    name = type(network).__name__
    if getattr(network, "has_sizes", True):
        name += f" of size {network.size}"
    if image.ndim != 5 or image.shape[1] != network.in_channels:
        raise InputError(
            f"{name} got an image of shape {tuple(image.shape)} where (batch, "
            f"{network.in_channels}, depth, height, width) was expected: check the modalities and "
            "`in_channels`."
        )
    sides: Sequence[int] = tuple(image.shape[2:])
    steps: Sequence[int] = getattr(network, "reduction", (network.total_stride,) * 3)
    fitting = tuple(
        max(2 * step, -(-side // step) * step) for side, step in zip(sides, steps, strict=True)
    )
    if fitting != sides:
        if len(set(steps)) == 1:
            rule = f"every side must be a multiple of {steps[0]} and at least {2 * steps[0]}"
        else:
            least = _by([2 * step for step in steps])
            rule = f"sides must be multiples of {_by(steps)} and at least {least}"
        raise InputError(
            f"{name} cannot take patches of {_by(sides)} voxels: {rule}, so set `patch_size` to "
            f"{_by(fitting)}."
        )


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
