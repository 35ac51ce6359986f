"""Parts of nnU-Net's networks: convolutions, residual blocks, two encoders and their decoder.

Layers and weight names are those of nnU-Net's `dynamic_network_architectures`.
"""

from collections.abc import Sequence

import torch
from torch import nn

SLOPE = 0.01
Triple = tuple[int, int, int]  # one number an axis
ONE = (1, 1, 1)


class ConvNorm(nn.Module):
    """Convolution, instance norm with learned scale and, where it is activated, leaky ReLU.

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave.
        kernel_size: voxels along every axis, odd.
        stride: of the convolution along every axis, voxels.
        bias: whether the convolution has one.
        activated: whether the leaky ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = ONE,
        bias: bool = True,
        activated: bool = True,
    ) -> None:
        super().__init__()
        depth, height, width = kernel_size
        padding = (depth // 2, height // 2, width // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.norm = nn.InstanceNorm3d(out_channels, affine=True)
        self.nonlin = nn.LeakyReLU(SLOPE, inplace=True) if activated else nn.Identity()

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.nonlin(self.norm(self.conv(feature_map)))


class ConvStack(nn.Module):
    """One or more `ConvNorm` of one kernel, the first of which may have a stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = ONE,
        count: int = 1,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNorm(in_channels, out_channels, kernel_size, stride),
            *(ConvNorm(out_channels, out_channels, kernel_size) for _ in range(count - 1)),
        )

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.convs(feature_map)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip that is pooled and projected where the shape changes.

    The block of ResNet-D (He et al., https://arxiv.org/abs/1812.01187).

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave.
        kernel_size: of both convolutions along every axis, voxels.
        stride: of the first convolution and of the pooling along every axis, voxels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Triple, stride: Triple = ONE
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, kernel_size, stride)
        self.conv2 = ConvNorm(out_channels, out_channels, kernel_size, activated=False)
        self.nonlin2 = nn.LeakyReLU(SLOPE, inplace=True)
        skip: list[nn.Module] = []
        if max(stride) > 1:
            skip.append(nn.AvgPool3d(stride, stride))
        if in_channels != out_channels:
            skip.append(ConvNorm(in_channels, out_channels, ONE, bias=False, activated=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.nonlin2(self.conv2(self.conv1(feature_map)) + self.skip(feature_map))


class ResidualStage(nn.Module):
    """The residual blocks of one level of the encoder; the first one may have a stride."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Triple, stride: Triple, count: int
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(in_channels, out_channels, kernel_size, stride),
            *(ResidualBlock(out_channels, out_channels, kernel_size) for _ in range(count - 1)),
        )

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Return (B, out_channels, ...) of a map (B, in_channels, ...)."""
        return self.blocks(feature_map)


class Encoder(nn.Module):
    """A stage a level, each of which may begin with a stride; residual ones after a convolution.

    Args:
        in_channels: modalities.
        filters: channels of every level, finest first.
        kernels: kernel of every level.
        strides: stride that leads to every level.
        counts: convolutions, or residual blocks, of every level.
        residual: whether the stages are residual.
    """

    def __init__(
        self,
        in_channels: int,
        filters: Sequence[int],
        kernels: Sequence[Triple],
        strides: Sequence[Triple],
        counts: Sequence[int],
        residual: bool,
    ) -> None:
        super().__init__()
        before = [filters[0] if residual else in_channels, *filters[:-1]]
        levels = zip(before, filters, kernels, strides, counts, strict=True)
        self.stem: nn.Module = nn.Identity()
        if residual:
            self.stem = ConvStack(in_channels, filters[0], kernels[0])
            self.stages = nn.Sequential(*(ResidualStage(*level) for level in levels))
        else:
            self.stages = nn.Sequential(*(nn.Sequential(ConvStack(*level)) for level in levels))

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the map of every level, finest first."""
        maps = []
        feature_map = self.stem(image)
        for stage in self.stages:
            feature_map = stage(feature_map)
            maps.append(feature_map)
        return maps


class Decoder(nn.Module):
    """Transposed convolution, concatenation and convolutions a level, coarsest first.

    Args:
        filters: channels of the encoder's levels, finest first.
        kernels: kernels of the encoder's levels, finest first.
        strides: strides of the encoder's levels, finest first.
        counts: convolutions of the decoder's levels, coarsest first.
        out_channels: channels of the output layer.
    """

    def __init__(
        self,
        filters: Sequence[int],
        kernels: Sequence[Triple],
        strides: Sequence[Triple],
        counts: Sequence[int],
        out_channels: int,
    ) -> None:
        super().__init__()
        upper = list(reversed(filters[:-1]))
        below = list(reversed(filters[1:]))
        self.stages = nn.ModuleList(
            ConvStack(2 * width, width, kernel, count=count)
            for width, kernel, count in zip(upper, reversed(kernels[:-1]), counts, strict=True)
        )
        self.transpconvs = nn.ModuleList(
            nn.ConvTranspose3d(enter, leave, stride, stride)
            for enter, leave, stride in zip(below, upper, reversed(strides[1:]), strict=True)
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
