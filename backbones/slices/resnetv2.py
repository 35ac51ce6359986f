"""ResNetV2: the convolutional half of TransUNet's hybrid encoder."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from backbones.slices.official import Source
from backbones.slices.stem import PHOTOGRAPH_CHANNELS

SMALLEST_IMAGE = 32  # pixels; below, the coarsest grid has one pixel and no variance


def convolution_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """Return the published (H, W, in, out) kernel as (out, in, H, W)."""
    return kernel.permute(3, 2, 0, 1)


class StandardisedConv2d(nn.Conv2d):
    """Convolution whose kernel has mean 0 and variance 1 over each output channel.

    Weight standardisation (Qiao et al., https://arxiv.org/abs/1903.10520).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution with the standardised kernel, (B, out, H, W)."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        kernel = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return functional.conv2d(input, kernel, self.bias, self.stride, self.padding)


class Bottleneck(nn.Module):
    """Residual unit of a 1x1, a 3x3 (which strides) and a 1x1 convolution, each group-normalised.

    `forward(features)`: (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride).

    Args:
        in_channels: channels in.
        out_channels: channels out, four times those of the 3x3 convolution.
        stride: stride of the 3x3 convolution.
        groups: groups of the normalisations.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = StandardisedConv2d(in_channels, middle, kernel_size=1, bias=False)
        self.gn1 = nn.GroupNorm(groups, middle, eps=1e-6)
        self.conv2 = StandardisedConv2d(
            middle, middle, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.gn2 = nn.GroupNorm(groups, middle, eps=1e-6)
        self.conv3 = StandardisedConv2d(middle, out_channels, kernel_size=1, bias=False)
        self.gn3 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.conv_proj = StandardisedConv2d(
                in_channels, out_channels, kernel_size=1, stride=stride, bias=False
            )
            # One group a channel, and PyTorch's epsilon: so in the authors' code.
            self.gn_proj = nn.GroupNorm(out_channels, out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the unit's output (B, out_channels, H / stride, W / stride)."""
        shortcut = self.gn_proj(self.conv_proj(features)) if self.projects else features
        residual = functional.relu(self.gn1(self.conv1(features)))
        residual = functional.relu(self.gn2(self.conv2(residual)))
        residual = self.gn3(self.conv3(residual))
        return functional.relu(shortcut + residual)


class ResNetV2(nn.Module):
    """ResNet with weight standardisation and group norm (https://arxiv.org/abs/1912.11370).

    Three blocks only: the hybrid ViT moves the fourth block's units into the third.

    Args:
        width: channels of the root; the blocks have 4, 8 and 16 times as many.
        units: residual units in each block, (3, 4, 9) in the paper.
    """

    def __init__(self, width: int, units: Sequence[int]) -> None:
        super().__init__()
        groups = width // 2  # the paper's 32 groups at its width of 64
        self.conv_root = StandardisedConv2d(
            PHOTOGRAPH_CHANNELS, width, kernel_size=7, stride=2, padding=3, bias=False
        )
        self.gn_root = nn.GroupNorm(groups, width, eps=1e-6)
        self.blocks = nn.ModuleList()
        channels = width
        for index, count in enumerate(units):
            out = 4 * width * 2**index
            self.blocks.append(
                nn.Sequential(
                    Bottleneck(channels, out, 1 if index == 0 else 2, groups),
                    *(Bottleneck(out, out, 1, groups) for _ in range(count - 1)),
                )
            )
            channels = out
        self.out_channels: int = channels
        self.skip_channels: tuple[int, ...] = (8 * width, 4 * width, width)  # coarse to fine

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode an image (B, 3, S, S).

        Returns:
            The coarsest map (B, 16 width, S/16, S/16), and the skips (B, 8 width, S/8, S/8),
            (B, 4 width, S/4, S/4), (B, width, S/2, S/2).
        """
        side = image.shape[-1]
        features = functional.relu(self.gn_root(self.conv_root(image)))
        skips = [features]
        features = functional.max_pool2d(features, kernel_size=3, stride=2)
        for block, stride in zip(self.blocks, (4, 8, 16), strict=True):
            features = block(features)
            # The pooling has no padding, so the first block is one pixel short: its skip is
            # filled with zeros, as the authors do, and the next block rounds the side up again.
            missing = side // stride - features.shape[-1]
            skips.append(functional.pad(features, (0, missing, 0, missing)))
        return features, skips[-2::-1]

    def official_sources(self, prefix: str) -> dict[str, Source]:
        """Return where the weights come from in a published `R50+ViT` file, by `prefix` + name."""
        sources: dict[str, Source] = {}
        for name, _ in self.named_parameters():
            layer, kind = name.rsplit(".", 1)
            parts = layer.split(".")
            if parts[0] == "blocks":
                block, unit = int(parts[1]) + 1, int(parts[2]) + 1
                layer = f"block{block}/unit{unit}/{parts[3]}"
            if parts[-1].startswith("conv"):
                sources[prefix + name] = Source((f"{layer}/kernel",), convolution_kernel)
            else:  # scales and biases are stored as (1, 1, 1, C)
                official = "scale" if kind == "weight" else "bias"
                sources[prefix + name] = Source((f"{layer}/{official}",), torch.flatten)
        return sources
