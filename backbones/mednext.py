"""MedNeXt: a U-shaped network of ConvNeXt blocks, a baseline."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from monai.networks import nets
from torch import nn

from backbones.deep_supervision import DeeplySupervised
from backbones.sizes import Size, check_image, preset_of
from errors import InputError

Variant = Literal["S", "M"]
MOMENTUM = 0.1


@dataclass(frozen=True)
class _Preset:
    filters: int
    expansion: tuple[int, ...]  # of the encoder's levels, finest first; the decoder mirrors both
    blocks: tuple[int, ...]
    bottom_expansion: int
    bottom_blocks: int


TINY = _Preset(8, expansion=(2, 2, 2), blocks=(1, 1, 1), bottom_expansion=2, bottom_blocks=1)
VARIANTS = {
    "S": _Preset(32, (2, 2, 2, 2), (2, 2, 2, 2), bottom_expansion=2, bottom_blocks=2),
    "M": _Preset(32, (2, 3, 4, 4), (3, 4, 4, 4), bottom_expansion=4, bottom_blocks=4),
}


class MedNeXt(DeeplySupervised, nets.MedNeXt):
    """MedNeXt (Roy et al., https://arxiv.org/abs/2303.09975), MONAI's layers and weight names.

    Kernels of 3, residual connections everywhere; 5,551,043 parameters as S and 17,533,635 as M,
    with four modalities and three outputs. Layers that halve the grid expand as their own level, as
    in MONAI; in the authors' M the first two expand as the next level (17,549,091 parameters).
    `forward(image)` is `head(features(image))`: (B, in_channels, D, H, W) to logits
    (B, out_channels, D, H, W).

    The last feature map is a residual sum, on which the authors put neither norm nor activation,
    so its scale grows in training. For fusion heads, which take maps of one scale, `features`
    divides it by the power of two next to its deviation in training, and `head` multiplies it
    again: both are exact, so the logits are MONAI's.

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: `base` is the authors' (five levels, 32 to 512 filters, sides of at least 32 voxels,
            multiples of 16); `tiny` has four levels of 8 to 64 filters for a processor (sides of
            at least 16 voxels, multiples of 8).
        variant: which of the authors' sizes `base` is, `S` or `M`; unset: S.

    Raises:
        InputError: unknown size or variant, a variant of `tiny`; an image of the wrong shape.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 3,
        size: Size = "base",
        variant: Variant | None = None,
    ) -> None:
        if variant is not None and (size != "base" or variant not in VARIANTS):
            raise InputError(
                f"MedNeXt of size {size} has no variant {variant!r}: leave `variant` out, or set "
                f"`size` to base and `variant` to one of {', '.join(VARIANTS)}."
            )
        preset = preset_of("MedNeXt", {"tiny": TINY, "base": VARIANTS[variant or "S"]}, size)
        super().__init__(
            spatial_dims=3,
            init_filters=preset.filters,
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_expansion_ratio=preset.expansion,
            decoder_expansion_ratio=preset.expansion[::-1],
            bottleneck_expansion_ratio=preset.bottom_expansion,
            kernel_size=3,
            use_residual_connection=True,
            blocks_down=preset.blocks,
            blocks_bottleneck=preset.bottom_blocks,
            blocks_up=preset.blocks[::-1],
        )
        self.size = size
        self.in_channels = in_channels
        self.feature_channels: int = preset.filters
        self.total_stride: int = 2 ** len(preset.blocks)
        self.deviation: torch.Tensor
        self.register_buffer("deviation", torch.ones(()))  # of the last feature map in training
        self.register_load_state_dict_pre_hook(_without_deviation)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution, whose output are the logits."""
        return self.out_0.conv_out

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the decoder's maps, coarsest first."""
        levels = reversed(range(len(self.up_blocks)))
        return tuple(self.feature_channels * 2**level for level in levels)

    def level_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's maps, coarsest first, the last one at unit scale."""
        check_image(self, image)
        features = self.stem(image)
        skips = []
        for stage, down in zip(self.enc_stages, self.down_blocks, strict=True):
            skips.append(stage(features))
            features = down(skips[-1])
        maps = [self.bottleneck(features)]
        for up, stage, skip in zip(self.up_blocks, self.dec_stages, reversed(skips), strict=True):
            maps.append(stage(up(maps[-1]) + skip))
        if self.training:
            self.deviation.lerp_(maps[-1].detach().float().std(), MOMENTUM)
        return [*maps[1:-1], maps[-1] / self._scale()]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        return self.out_0(features * self._scale())

    def _scale(self) -> torch.Tensor:
        return torch.exp2(self.deviation.log2().round())


def _without_deviation(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let weights load that were trained elsewhere, and have no deviation stored with them."""
    state_dict.setdefault(f"{prefix}deviation", torch.ones(()))
