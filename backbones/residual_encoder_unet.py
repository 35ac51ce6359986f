"""ResidualEncoderUNet: nnU-Net's U-Net with a residual encoder, a baseline."""

from dataclasses import dataclass

from backbones.planned_unet import PlannedUNet
from backbones.sizes import Size, preset_of


@dataclass(frozen=True)
class _Preset:
    filters: tuple[int, ...]
    blocks: tuple[int, ...]


PRESETS = {
    "tiny": _Preset(filters=(8, 16, 32, 64), blocks=(1, 2, 2, 2)),
    "base": _Preset(filters=(32, 64, 128, 256, 320, 320), blocks=(1, 3, 4, 6, 6, 6)),  # ResEnc M
}


class ResidualEncoderUNet(PlannedUNet):
    """The ResEnc U-Net of Isensee et al., "nnU-Net revisited" (https://arxiv.org/abs/2404.09556).

    Of nnU-Net's three sizes M, the one that its authors ask to compare with first; layers and
    weight names of their `dynamic_network_architectures`, whose network has as many parameters:
    102,353,167 with four modalities, three outputs and the coarser output layers.
    `forward(image)` is `head(features(image))`: (B, in_channels, D, H, W) to logits
    (B, out_channels, D, H, W).

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: `base` is ResEnc M for patches of 128^3 (six levels of 32 to 320 filters with 1, 3,
            4, 6, 6 and 6 residual blocks, sides of at least 64 voxels, multiples of 32); `tiny`
            has four levels of 8 to 64 filters for a processor (at least 16, multiples of 8).

    Raises:
        InputError: unknown size; an image of the wrong shape.
    """

    has_sizes = True

    def __init__(self, in_channels: int = 4, out_channels: int = 3, size: Size = "base") -> None:
        preset = preset_of("ResidualEncoderUNet", PRESETS, size)
        levels = len(preset.filters)
        super().__init__(
            in_channels,
            out_channels,
            size,
            filters=list(preset.filters),
            kernels=[[3, 3, 3]] * levels,
            strides=[[1, 1, 1], *([2, 2, 2] for _ in range(levels - 1))],
            counts=list(preset.blocks),
            decoder_counts=[1] * (levels - 1),
            residual=True,
        )
