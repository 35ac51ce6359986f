"""Early fusion: the networks' feature maps side by side, mixed voxel by voxel."""

from collections.abc import Sequence

import torch
from torch import nn

from backbones.sizes import Size, preset_of
from fusion.inputs import check_features
from fusion.late import FromLateFusion, Start

WIDTHS = {"tiny": 16, "base": 48}


class EarlyFusion(nn.Module):
    """Concatenate the last feature maps of any number of networks, then two 1x1x1 convolutions.

    The early fusion of Vo-Thanh et al., "3D Dual-Fusion Attention Network for Brain Tumor
    Segmentation". A GELU stands between the convolutions, without which two would be one; nothing
    follows the last.

    Args:
        in_channels: feature channels of each network.
        out_channels: regions.
        size: `base` has 48 channels between the convolutions, `tiny` 16.
        start: `late` or `zero`; see `FromLateFusion`.

    Raises:
        InputError: unknown size or start; feature maps other than those it was built for.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 3,
        size: Size = "base",
        start: Start = "late",
    ) -> None:
        super().__init__()
        width = preset_of("EarlyFusion", WIDTHS, size)
        self.in_channels = tuple(in_channels)
        self.mix = nn.Conv3d(sum(in_channels), width, kernel_size=1)
        self.activation = nn.GELU()
        self.out = nn.Conv3d(width, out_channels, kernel_size=1)
        self.begin = FromLateFusion("EarlyFusion", start, self.out)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution: it gives the logits, or their difference from late fusion's."""
        return self.out

    def forward(self, features: list[torch.Tensor], logits: list[torch.Tensor]) -> torch.Tensor:
        """Return logits (B, out_channels, D, H, W) of feature maps (B, C_i, D, H, W)."""
        check_features("EarlyFusion", features, self.in_channels)
        fused = self.out(self.activation(self.mix(torch.cat(features, dim=1))))
        return self.begin(fused, logits)
