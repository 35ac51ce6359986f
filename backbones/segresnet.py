"""SegResNet: a residual encoder-decoder, the second pretrained network of the fusion."""

from dataclasses import dataclass

import torch
from monai.networks import nets
from torch import nn

from backbones.sizes import NormName, Size, check_image, norm_layer, preset_of


@dataclass(frozen=True)
class _Preset:
    filters: int
    norm: NormName
    dropout: float | None


PRESETS = {
    # No dropout in the tiny network: it drops whole channels, and there are only eight.
    "tiny": _Preset(filters=8, norm="batch", dropout=None),
    "base": _Preset(filters=16, norm="group", dropout=0.2),
}
BLOCKS_DOWN = (1, 2, 2, 4)
BLOCKS_UP = (1, 1, 1)


class SegResNet(nets.SegResNet):
    """SegResNet (Myronenko, https://arxiv.org/abs/1810.11654), MONAI's layers and weight names.

    `forward(image)` is `head(features(image))`: (B, in_channels, D, H, W) to logits
    (B, out_channels, D, H, W). Sides are at least 16 voxels and multiples of 8.

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: `base` is the paper's (16 filters at full resolution, dropout 0.2); `tiny` has 8
            filters and no dropout, for a processor.
        norm: `batch`, `instance` or `group`; unset: group for `base`, batch for `tiny`.

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
        preset = preset_of("SegResNet", PRESETS, size)
        super().__init__(
            spatial_dims=3,
            init_filters=preset.filters,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=preset.dropout,
            norm=norm_layer("SegResNet", norm or preset.norm, preset.filters),
            blocks_down=BLOCKS_DOWN,
            blocks_up=BLOCKS_UP,
        )
        self.size = size
        self.feature_channels: int = preset.filters
        self.total_stride: int = 2 ** len(BLOCKS_UP)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution, whose output are the logits."""
        return self.conv_final[-1].conv

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, feature_channels, D, H, W), input of the last layer.

        The decoder's sum after its normalisation and ReLU: before them its scale grows in training,
        and less of the logits can be read from it.
        """
        check_image(self, image)
        bottom, skips = self.encode(image)
        skips.reverse()
        features = bottom
        for up_sample, up_layer, skip in zip(
            self.up_samples, self.up_layers, skips[1:], strict=True
        ):
            features = up_layer(up_sample(features) + skip)
        return self.conv_final[:-1](features)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        return self.conv_final[-1](features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of an image."""
        return self.head(self.features(image))
