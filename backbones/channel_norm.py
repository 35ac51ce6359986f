"""ChannelNorm: instance norm, in the memory layouts that a processor is fast with."""

import torch
from torch import nn


class ChannelNorm(nn.GroupNorm):
    """Group norm with one channel a group, which is instance norm: (B, C, D, H, W) to the same.

    On a processor the sums run over contiguous channels, and what comes out is channels-last for
    the convolution that follows. With few channels torch's channels-last sums are slow and so are
    contiguous convolutions: a step of `MultipathAttentionUNet` of size `tiny` takes 0.41 s instead
    of 1.05 (all channels-last) or 0.66 (all contiguous), 2 x 48^3 in bfloat16 on one core.

    Args:
        channels: channels of the map.
        affine: whether each has a learned scale and shift.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(channels, channels, affine=affine)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return the normalised map (B, C, D, H, W)."""
        if feature_map.device.type != "cpu":
            return super().forward(feature_map)
        normalised = super().forward(feature_map.contiguous())
        return normalised.contiguous(memory_format=torch.channels_last_3d)
