"""DynUNet: the nnU-Net architecture, the first pretrained network of the fusion."""

from dataclasses import dataclass

import torch
from monai.networks import nets
from torch import nn

from backbones.deep_supervision import DeeplySupervised
from backbones.sizes import NormName, Size, check_image, norm_layer, preset_of


@dataclass(frozen=True)
class _Preset:
    filters: tuple[int, ...]
    norm: NormName


PRESETS = {
    # Batch norm, measured: trained on phantoms, whole-tumour Dice of real patients rose from 0.55
    # with instance norm to 0.66.
    "tiny": _Preset(filters=(8, 16, 32, 64), norm="batch"),
    "base": _Preset(filters=(32, 64, 128, 256, 320, 320), norm="instance"),
}


class DynUNet(DeeplySupervised, nets.DynUNet):
    """DynUNet (Isensee et al., https://arxiv.org/abs/1904.08128), MONAI's layers and weight names.

    `forward(image)` is `head(features(image))`: (B, in_channels, D, H, W) to logits
    (B, out_channels, D, H, W).

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: `base` is the paper's (six levels, 32 to 320 filters, sides of at least 64 voxels,
            multiples of 32); `tiny` has four levels of 8 to 64 filters for a processor (sides of
            at least 16 voxels, multiples of 8).
        norm: `batch`, `instance` or `group`; unset: instance for `base`, batch for `tiny`.

    Raises:
        InputError: unknown size or norm; an image of the wrong shape.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        size: Size = "base",
        norm: NormName | None = None,
    ) -> None:
        preset = preset_of("DynUNet", PRESETS, size)
        levels = len(preset.filters)
        strides = [1] + [2] * (levels - 1)
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=[3] * levels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=preset.filters,
            norm_name=norm_layer("DynUNet", norm or preset.norm, preset.filters[0]),
            deep_supervision=False,
        )
        self.size = size
        self.feature_channels: int = preset.filters[0]
        self.total_stride: int = 2 ** (levels - 1)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution, whose output are the logits."""
        return self.output_block.conv.conv

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the decoder's maps, coarsest first."""
        return tuple(reversed(self.filters[:-1]))

    def level_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's maps, coarsest first; the last is the input of the output block."""
        check_image(self, image)
        skips = [self.input_block(image)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        maps = [self.bottleneck(skips[-1])]
        for up, skip in zip(self.upsamples, reversed(skips), strict=True):
            maps.append(up(maps[-1], skip))
        return maps[1:]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        return self.output_block(features)
