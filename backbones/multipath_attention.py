"""MultipathAttentionUNet: a U-Net of one level whose blocks are dilated, residual and attentive."""

from dataclasses import dataclass

import torch
from torch import nn

from backbones.channel_norm import ChannelNorm
from backbones.sizes import Size, check_image, preset_of

DILATIONS = ((1, 2, 4), (2, 4, 1))  # of a block's two paths
DROPOUT = 0.2


@dataclass(frozen=True)
class _Preset:
    filters: int
    blocks: int


PRESETS = {
    # A step on 2 x 48^3 voxels in bfloat16 takes one core 0.41 s (0.18 s with the tiny DynUNet).
    "tiny": _Preset(filters=4, blocks=2),
    "base": _Preset(filters=8, blocks=6),
}


class NormReluConv(nn.Sequential):
    """GroupNorm with one channel a group, ReLU, 3x3x3 convolution: (B, in, ...) to (B, out, ...).

    Args:
        in_channels: channels and groups that enter.
        out_channels: channels that leave.
        dilation: dilation of the convolution, voxels.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__(
            ChannelNorm(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(in_channels, out_channels, 3, padding=dilation, dilation=dilation),
        )


class ResidualAttention(nn.Module):
    """One weight a voxel for a sum of two maps: s * sigmoid(NormReluConv(s)), s = x + path.

    Args:
        channels: channels of each map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = NormReluConv(channels, 1)

    def forward(self, feature_map: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum (B, C, D, H, W) of two maps (B, C, D, H, W)."""
        total = feature_map + path
        return total * self.score(total).sigmoid()


class SkipAttention(nn.Module):
    """Attention on a skip connection: both maps by one 1x1x1 convolution, then weighted.

    Args:
        channels: channels of each map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv3d(channels, channels, kernel_size=1)
        self.attend = ResidualAttention(channels)

    def forward(self, skip: torch.Tensor, upsampled: torch.Tensor) -> torch.Tensor:
        """Return the attended skip (B, C, D, H, W) of two maps (B, C, D, H, W)."""
        return self.attend(self.project(skip), self.project(upsampled))


class MultipathBlock(nn.Module):
    """Multipath residual attention: the sum of the map and two dilated paths, each attended.

    Args:
        channels: channels of the map, unchanged.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(*(NormReluConv(channels, channels, dilation) for dilation in dilations))
            for dilations in DILATIONS
        )
        self.attend = ResidualAttention(channels)
        self.join = NormReluConv((1 + len(DILATIONS)) * channels, channels)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, C, D, H, W) of a map (B, C, D, H, W)."""
        attended = [self.attend(feature_map, path(feature_map)) for path in self.paths]
        return self.join(torch.cat([feature_map, *attended], dim=1))


class MultipathAttentionUNet(nn.Module):
    """Single-level UNet3D with multipath residual attention (Akbar et al., 2022).

    "Single level UNet3D with multipath residual attention block for brain tumor segmentation",
    https://doi.org/10.1016/j.jksuci.2022.03.022. `forward(image)` is `head(features(image))`:
    (B, in_channels, D, H, W) to logits (B, out_channels, D, H, W). Sides are even and at least 4
    voxels.

    The authors published no code that we know of. From their abstract: one level, an attention on
    the skip connection, blocks of two dilated sequences, attention and a residual path. From
    other people's code that cites the paper, written anew here: the dilations (1, 2, 4) and
    (2, 4, 1); groups of one channel; one attention for both paths of a block; dropout of whole
    input modalities, 0.2, while training; 8 and 16 channels; six inner blocks; 2x2x2 transposed
    convolution; one projection for both maps at the skip; biases everywhere, and with all of it
    396,409 parameters for one output, which tests hold. That code gives its last convolution a
    dilation of 3, which reads like a kernel size in the wrong place: decided here to be 1, of the
    same size. Decided here too: the regions as sigmoid outputs, and where `features` end, after
    the last normalisation and activation.

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: `base` is the paper's (8 and 16 channels, six inner blocks); `tiny` has 4 and 8
            channels and two inner blocks, for a processor.
        shared_block: whether the inner blocks are one block applied again and again, as in the
            other people's code (81,044 parameters for one output).

    Raises:
        InputError: unknown size; an image of the wrong shape.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        size: Size = "base",
        shared_block: bool = False,
    ) -> None:
        super().__init__()
        preset = preset_of("MultipathAttentionUNet", PRESETS, size)
        filters = preset.filters
        self.size = size
        self.in_channels = in_channels
        self.feature_channels: int = 2 * filters
        self.total_stride: int = 2
        self.enter = nn.Sequential(nn.Dropout3d(DROPOUT), nn.Conv3d(in_channels, filters, 1))
        self.outer = MultipathBlock(filters)
        self.down = nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(filters, 2 * filters, 1))
        block = MultipathBlock(2 * filters)
        self.inner = nn.Sequential(
            block,
            *(
                block if shared_block else MultipathBlock(2 * filters)
                for _ in range(preset.blocks - 1)
            ),
        )
        self.up = nn.ConvTranspose3d(2 * filters, filters, kernel_size=2, stride=2)
        self.skip = SkipAttention(filters)
        self.out = NormReluConv(2 * filters, out_channels)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution, whose output are the logits."""
        return self.out[-1]

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, feature_channels, D, H, W), input of the last layer.

        The attended skip beside the decoder's output, normalised, after the ReLU.
        """
        check_image(self, image)
        skip = self.outer(self.enter(image))
        upsampled = self.up(self.inner(self.down(skip)))
        joined = torch.cat([self.skip(skip, upsampled), upsampled], dim=1)
        normalise, activate, _ = self.out
        return activate(normalise(joined))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        return self.out[-1](features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of an image."""
        return self.head(self.features(image))
