"""ResidualEncoderUNet: nnU-Net's U-Net with a residual encoder, a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from backbones.deep_supervision import DeeplySupervised
from backbones.sizes import Size, check_image, preset_of

SLOPE = 0.01


@dataclass(frozen=True)
class _Preset:
    filters: tuple[int, ...]
    blocks: tuple[int, ...]


PRESETS = {
    "tiny": _Preset(filters=(8, 16, 32, 64), blocks=(1, 2, 2, 2)),
    "base": _Preset(filters=(32, 64, 128, 256, 320, 320), blocks=(1, 3, 4, 6, 6, 6)),  # ResEnc M
}


class ConvNorm(nn.Module):
    """Convolution, instance norm with learned scale and, where it is activated, leaky ReLU.

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave.
        kernel_size: 1 or 3 voxels a side.
        stride: of the convolution, voxels.
        bias: whether the convolution has one.
        activated: whether the leaky ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        activated: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias
        )
        self.norm = nn.InstanceNorm3d(out_channels, affine=True)
        self.nonlin = nn.LeakyReLU(SLOPE, inplace=True) if activated else nn.Identity()

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.nonlin(self.norm(self.conv(feature_map)))


class ConvStack(nn.Module):
    """One or more `ConvNorm` of 3x3x3: (B, in_channels, ...) to (B, out_channels, ...)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(in_channels, out_channels))

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.convs(feature_map)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip that is pooled and projected where the shape changes.

    The block of ResNet-D (He et al., https://arxiv.org/abs/1812.01187).

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave.
        stride: of the first convolution and of the pooling, voxels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, stride=stride)
        self.conv2 = ConvNorm(out_channels, out_channels, activated=False)
        self.nonlin2 = nn.LeakyReLU(SLOPE, inplace=True)
        skip: list[nn.Module] = []
        if stride > 1:
            skip.append(nn.AvgPool3d(stride, stride))
        if in_channels != out_channels:
            skip.append(ConvNorm(in_channels, out_channels, 1, bias=False, activated=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.nonlin2(self.conv2(self.conv1(feature_map)) + self.skip(feature_map))


class ResidualStage(nn.Module):
    """The residual blocks of one level of the encoder; the first one may have a stride."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(in_channels, out_channels, stride),
            *(ResidualBlock(out_channels, out_channels) for _ in range(blocks - 1)),
        )

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.blocks(feature_map)


class ResidualEncoder(nn.Module):
    """A convolution and a residual stage a level, each but the first with stride 2."""

    def __init__(self, in_channels: int, filters: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = ConvStack(in_channels, filters[0])
        before = [filters[0], *filters[:-1]]
        self.stages = nn.Sequential(
            *(
                ResidualStage(enter, leave, count, stride=2 if level else 1)
                for level, (enter, leave, count) in enumerate(
                    zip(before, filters, blocks, strict=True)
                )
            )
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the map of every level, finest first."""
        maps = []
        feature_map = self.stem(image)
        for stage in self.stages:
            feature_map = stage(feature_map)
            maps.append(feature_map)
        return maps


class UNetDecoder(nn.Module):
    """Transposed convolution, concatenation and one convolution a level, coarsest first."""

    def __init__(self, filters: Sequence[int], out_channels: int) -> None:
        super().__init__()
        upper = list(reversed(filters[:-1]))
        below = list(reversed(filters[1:]))
        self.stages = nn.ModuleList(ConvStack(2 * width, width) for width in upper)
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(enter, leave, kernel_size=2, stride=2)
            for enter, leave in zip(below, upper, strict=True)
        )
        # only the finest: nnU-Net keeps one a level, for deep supervision
        self.seg_layers = nn.ModuleDict(
            {str(len(upper) - 1): nn.Conv3d(upper[-1], out_channels, kernel_size=1)}
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the map of every level, coarsest first, of the encoder's maps, finest first."""
        found = [maps[-1]]
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(maps[:-1]), strict=True):
            found.append(stage(torch.cat([up(found[-1]), skip], dim=1)))
        return found[1:]


class ResidualEncoderUNet(DeeplySupervised):
    """The ResEnc U-Net of Isensee et al., "nnU-Net revisited" (https://arxiv.org/abs/2404.09556).

    Of nnU-Net's three sizes M, the one that its authors ask to compare with first; layers and
    weight names of their `dynamic_network_architectures`. `forward(image)` is
    `head(features(image))`: (B, in_channels, D, H, W) to logits (B, out_channels, D, H, W).

    Weights that nnU-Net trained load as they are: its files hold every tensor two or three times
    under different names, and an output layer a level; what is not needed here is left out.

    Args:
        in_channels: modalities.
        out_channels: regions.
        size: `base` is ResEnc M for patches of 128^3 (six levels of 32 to 320 filters with 1, 3,
            4, 6, 6 and 6 residual blocks, sides of at least 64 voxels, multiples of 32); `tiny`
            has four levels of 8 to 64 filters for a processor (at least 16, multiples of 8).

    Raises:
        InputError: unknown size; an image of the wrong shape.
    """

    def __init__(self, in_channels: int = 4, out_channels: int = 3, size: Size = "base") -> None:
        super().__init__()
        preset = preset_of("ResidualEncoderUNet", PRESETS, size)
        self.size = size
        self.in_channels = in_channels
        self.filters = preset.filters
        self.feature_channels: int = preset.filters[0]
        self.total_stride: int = 2 ** (len(preset.filters) - 1)
        self.encoder = ResidualEncoder(in_channels, preset.filters, preset.blocks)
        self.decoder = UNetDecoder(preset.filters, out_channels)
        self.apply(_initialise)
        self.register_load_state_dict_pre_hook(_drop_other_names)

    @property
    def output_layer(self) -> nn.Module:
        """The last convolution, whose output are the logits."""
        (layer,) = self.decoder.seg_layers.values()
        return layer

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of the decoder's maps, coarsest first."""
        return tuple(reversed(self.filters[:-1]))

    def level_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the decoder's maps, coarsest first; the last is the input of the last layer."""
        check_image(self, image)
        return self.decoder(self.encoder(image))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, out_channels, D, H, W) of a feature map."""
        return self.output_layer(features)


def _initialise(module: nn.Module) -> None:
    """Initialise as in He et al. (normal); every residual block begins as its skip."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)


def _drop_other_names(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Remove from nnU-Net's weights the second names of tensors and the coarser output layers."""
    own = set(module.state_dict())
    for name in list(state_dict):
        inner = name.removeprefix(prefix)
        second = ".all_modules." in inner or inner.startswith("decoder.encoder.")
        coarser = inner.startswith("decoder.seg_layers.") and inner not in own
        if name.startswith(prefix) and (second or coarser):
            del state_dict[name]
