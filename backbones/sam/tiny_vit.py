"""TinyViT, the image encoder of the small SAMs: convolutions, then attention in windows."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from backbones.sam.encoder import ChannelNorm
from backbones.sam.image_encoder import ImageEncoder
from backbones.sam.linear import linear, project
from backbones.sam.variants import EMBEDDING, TinyViTShape, grid_of, variant_of
from errors import InputError

EXPANSION = 4  # hidden channels of a block, as a multiple
CACHED_PIXELS = 2 * 224**2  # that pass through a processor together


class ConvNorm(nn.Module):
    """A convolution and the batch norm behind it, by the norm's stored statistics.

    Both are one convolution, whose weights are computed from the published ones in every pass:
    a few thousand operations against hundreds of millions, and nothing is stored twice.

    Args:
        into: channels of the input.
        out: channels of the output.
        kernel: side of the kernel, odd.
        stride: stride of the convolution.
        groups: groups of its channels.
    """

    def __init__(
        self, into: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return (B, out, h, w) of (B, into, h * stride, w * stride)."""
        if self.training:  # only an encoder that is not frozen
            return self.bn(self.c(image))
        norm: Any = self.bn
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = self.c.weight * factor[:, None, None, None]
        bias = norm.bias - norm.running_mean * factor
        layer = self.c
        if layer.kernel_size == (1, 1):  # a linear layer of the channels of every pixel
            tokens = project(image.permute(0, 2, 3, 1), weight.flatten(1), bias)
            return tokens.permute(0, 3, 1, 2)
        return functional.conv2d(image, weight, bias, layer.stride, layer.padding, 1, layer.groups)


class Stem(nn.Module):
    """The two convolutions at the start, (B, 3, S, S) to (B, dim, S / stride**2, ...).

    Args:
        shape: kernel, stride and channels.
    """

    def __init__(self, shape: TinyViTShape) -> None:
        super().__init__()
        dim, kernel, stride = shape.dims[0], shape.stem_kernel, shape.stem_stride
        self.seq = nn.Sequential(
            ConvNorm(3, dim // 2, kernel, stride),
            nn.GELU(),
            ConvNorm(dim // 2, dim, kernel, stride),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the first feature map."""
        return self.seq(image)


class ConvBlock(nn.Module):
    """An inverted bottleneck with a depthwise convolution, (B, dim, h, w) to the same.

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = EXPANSION * dim
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the block's feature map."""
        hidden = functional.gelu(self.conv2(functional.gelu(self.conv1(image))))
        return functional.gelu(image + self.conv3(hidden))


class Downsampling(nn.Module):
    """Three convolutions between two stages, (B, into, h, w) to (B, out, h / stride, w / stride).

    Args:
        into: channels of the stage before.
        out: channels of the stage behind.
        stride: stride of the convolution in the middle.
    """

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(into, out)
        self.conv2 = ConvNorm(out, out, 3, stride, groups=out)
        self.conv3 = ConvNorm(out, out)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the smaller map."""
        return self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(image)))))


class WindowAttention(nn.Module):
    """Attention in windows, with a bias for every distance between two tokens.

    Graham et al., "LeViT" (https://arxiv.org/abs/2104.01136). Grids that are no whole number of
    windows are padded with zeros below and to the right, and these take part.

    Args:
        dim: channels of a token.
        heads: heads of the attention.
        window: tokens a side of a window.
    """

    index: torch.Tensor
    interleaved = True  # `qkv` gives query, key and value head by head

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        self.register_buffer("index", _distances(window), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the attended tokens, (B, h, w, C) as they came."""
        height, width, channels = tokens.shape[1:]
        size = self.window
        below, beside = -height % size, -width % size
        if below or beside:
            tokens = functional.pad(tokens, (0, 0, 0, beside, 0, below))
        projected = linear(self.qkv, self.norm(tokens))  # query, key and value of each head
        windows = (
            projected.unflatten(-1, (self.heads, -1))
            .unflatten(2, (-1, size))
            .unflatten(1, (-1, size))  # (B, m, size, n, size, heads, 3d)
            .permute(0, 1, 3, 5, 2, 4, 6)
        )
        query, key, value = windows.flatten(4, 5).chunk(3, dim=-1)  # (B, m, n, heads, size^2, d)
        biases = self.attention_biases[:, self.index].to(query.dtype)  # (heads, size^2, size^2)
        # Explicit products train faster on a processor than the fused kernel with a bias.
        scores = torch.baddbmm(
            biases.expand(*query.shape[:3], -1, -1, -1).flatten(0, 3),
            query.flatten(0, 3),
            key.flatten(0, 3).transpose(1, 2),
            alpha=1 / math.sqrt(query.shape[-1]),
        )
        attended = (
            (torch.softmax(scores, dim=-1) @ value.flatten(0, 3))
            .view(query.shape)
            .unflatten(4, (size, size))
            .permute(0, 1, 4, 2, 5, 3, 6)
            .reshape(*tokens.shape[:3], channels)
        )
        if below or beside:
            attended = attended[:, :height, :width]
        return linear(self.proj, attended)


class Mlp(nn.Module):
    """A norm and two layers with a GELU between them, (..., C) to the same.

    Args:
        dim: channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, EXPANSION * dim)
        self.fc2 = nn.Linear(EXPANSION * dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the new tokens."""
        return linear(self.fc2, linear(self.fc1, self.norm(tokens), gelu=True))


class TinyViTBlock(nn.Module):
    """Attention, a depthwise convolution, and two layers; (B, h, w, C) to the same.

    The convolution has no residual connection, and the norms are inside `attn` and `mlp`.

    Args:
        dim: channels of a token.
        heads: heads of the attention.
        window: tokens a side of a window.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the block's tokens."""
        tokens = tokens + self.attn(tokens)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return tokens + self.mlp(tokens)


class Stage(nn.Module):
    """Blocks of one width and the downsampling behind them, if any; a holder of names.

    Args:
        blocks: the blocks.
        downsample: what leads to the next stage.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class TinyViT(ImageEncoder):
    """The image encoder of MobileSAM and LiteMedSAM, (B, 3, S, S) to (B, 256, h, w).

    Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers"
    (https://arxiv.org/abs/2207.10666), as in Zhang et al., "Faster Segment Anything: Towards
    Lightweight SAM for Mobile Applications" (https://arxiv.org/abs/2306.14289), under their weight
    names. The first stage is convolutional; adapters may follow the blocks of the other three.
    It has no position embedding, so any size works; batch norms keep their stored statistics.

    Args:
        variant: `mobile_sam` or `lite_medsam`, or a shape.
        image_size: side of the image, pixels, a multiple of the stride (16 or 4). Windows need no
            padding at multiples of 224 and 56.

    Raises:
        InputError: another variant, a size that is no multiple of the stride, an image of another
            size.
    """

    def __init__(self, variant: str | TinyViTShape = "mobile_sam", image_size: int = 224) -> None:
        super().__init__()
        shape = variant_of(variant).shape if isinstance(variant, str) else variant
        if not isinstance(shape, TinyViTShape):
            raise InputError(f"{variant} is no TinyViT: build it by `backbones.SamImageEncoder`.")
        grid_of(image_size, shape.stride)
        self.image_size = image_size
        self.stride = shape.stride
        self.widths = shape.widths
        self.patch_embed = Stem(shape)
        self.layers = nn.ModuleList()
        for number, (dim, depth) in enumerate(zip(shape.dims, shape.depths, strict=True)):
            blocks = [
                TinyViTBlock(dim, shape.heads[number], shape.windows[number])
                if number
                else ConvBlock(dim)
                for _ in range(depth)
            ]
            last = number == len(shape.dims) - 1
            downsample = (
                None if last else Downsampling(dim, shape.dims[number + 1], shape.strides[number])
            )
            self.layers.append(Stage(blocks, downsample))
        self.neck = nn.Sequential(
            nn.Conv2d(shape.dims[-1], EMBEDDING, kernel_size=1, bias=False),
            ChannelNorm(EMBEDDING, eps=1e-6),
            nn.Conv2d(EMBEDDING, EMBEDDING, kernel_size=3, padding=1, bias=False),
            ChannelNorm(EMBEDDING, eps=1e-6),
        )

    @property
    def attention_blocks(self) -> Sequence[Any]:
        """Return the blocks of all stages but the first, which has no attention."""
        stages: list[Any] = list(self.layers)[1:]
        return [block for stage in stages for block in stage.blocks]

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, h, w, 128) of an image (B, 3, S, S): stem and first stage."""
        self.check_image(image)
        first: Any = self.layers[0]
        features = self.patch_embed(image.contiguous(memory_format=torch.channels_last))
        for block in first.blocks:
            features = block(features)
        return first.downsample(features).permute(0, 2, 3, 1)

    def step(self, index: int, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, h, w, c) after a block, downsampled before it where due."""
        stages: list[Any] = list(self.layers)
        number, place = 1, index
        while place >= len(stages[number].blocks):
            place -= len(stages[number].blocks)
            number += 1
        if place == 0 and number > 1:
            smaller = stages[number - 1].downsample(tokens.permute(0, 3, 1, 2))
            tokens = smaller.permute(0, 2, 3, 1)
        return stages[number].blocks[place](tokens)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, 256, h, w) of an image (B, 3, S, S)."""
        if image.device.type == "cpu" and not torch.is_grad_enabled():
            # Few images at a time stay in the processor's cache, and their memory is reused.
            together = max(1, CACHED_PIXELS // image.shape[-1] ** 2)
            return torch.cat([self.encode(part) for part in image.split(together)])
        return self.encode(image)


def _distances(window: int) -> torch.Tensor:
    """Return the number (n, n) of the bias of every two tokens of a window, n = window**2.

    Biases are numbered by rows and columns between two tokens in the order in which these occur
    first: that of the tokens themselves, seen from the first of them.
    """
    places = torch.arange(window)
    apart = (places[:, None] - places[None, :]).abs()  # (window, window)
    rows = apart.repeat_interleave(window, 0).repeat_interleave(window, 1)
    return rows * window + apart.repeat(window, window)
