"""TransUNet: a transformer between a convolutional encoder and a cascaded decoder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from monai.networks.blocks import MLPBlock
from torch import nn
from torch.nn import functional

from backbones.sizes import Size, preset_of
from backbones.slices.official import Source, load_official
from backbones.slices.resnetv2 import SMALLEST_IMAGE, ResNetV2, convolution_kernel
from backbones.slices.stem import ModalityStem
from errors import InputError

STRIDE = 16


@dataclass(frozen=True)
class _Preset:
    width: int  # channels of the ResNet's root
    units: tuple[int, ...]
    hidden: int  # channels of a token
    layers: int
    heads: int
    cup: tuple[int, ...]  # channels of the decoder, coarse to fine


PRESETS = {
    "tiny": _Preset(width=16, units=(1, 1, 2), hidden=128, layers=4, heads=4, cup=(64, 48, 24, 16)),
    "base": _Preset(
        width=64, units=(3, 4, 9), hidden=768, layers=12, heads=12, cup=(256, 128, 64, 16)
    ),
}
MLP_RATIO = 4
DROPOUT = 0.1  # after the embedding and in the MLPs; the authors' attention has none


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer; the attention is PyTorch's, the MLP MONAI's.

    MONAI's `TransformerBlock` is not used: it drops attention weights too, keeps a normalisation
    for cross-attention that never receives a gradient, and its attention needs einops installed.

    `forward(tokens)`: (B, N, hidden) to the same shape.

    Args:
        hidden: channels of a token.
        heads: heads of the attention.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden, eps=1e-6)
        self.attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(hidden, eps=1e-6)
        self.mlp = MLPBlock(hidden, MLP_RATIO * hidden, DROPOUT)
        for linear in (self.mlp.linear1, self.mlp.linear2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens after attention and MLP, (B, N, hidden)."""
        normed = self.norm1(tokens)
        attended, _ = self.attn(normed, normed, normed, need_weights=False)
        tokens = tokens + attended
        return tokens + self.mlp(self.norm2(tokens))


class UpBlock(nn.Module):
    """One step of the decoder: twice the resolution, the skip, two convolutions.

    Args:
        in_channels: channels from below.
        skip_channels: channels of the skip; 0 without one.
        out_channels: channels out.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_convolution(in_channels + skip_channels, out_channels),
            *_convolution(out_channels, out_channels),
        )

    def forward(self, features: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        """Return (B, out_channels, 2H, 2W) for features (B, in_channels, H, W)."""
        features = functional.interpolate(
            features, scale_factor=2, mode="bilinear", align_corners=True
        )
        if skip is not None:
            features = torch.cat([features, skip], dim=1)
        return self.convolutions(features)


class TransUNet(nn.Module):
    """TransUNet R50-ViT-B/16 (Chen et al., https://arxiv.org/abs/2102.04306, section 3).

    `forward(image)` is `head(features(image))`: (B, modalities, S, S) to logits
    (B, regions, S, S). A 1x1 convolution turns the modalities into the three channels of the
    pretrained encoder; three modalities enter as they are.

    Args:
        modalities: channels of the image.
        regions: channels of the logits.
        size: `base` is the paper's (105,322,146 parameters at 256 px with 3 channels in and 2
            out, 105,322,016 with 4 in and 1 out); `tiny` is for a processor.
        image_size: side of the image, pixels: a multiple of 16, at least 32.

    Raises:
        InputError: unknown size; an image size that does not fit; an image of another shape.
    """

    def __init__(
        self, modalities: int, regions: int, size: Size = "base", image_size: int = 256
    ) -> None:
        super().__init__()
        preset = preset_of("TransUNet", PRESETS, size)
        if image_size < SMALLEST_IMAGE or image_size % STRIDE:
            fitting = max(SMALLEST_IMAGE, math.ceil(image_size / STRIDE) * STRIDE)
            raise InputError(
                f"TransUNet cannot take images of {image_size} pixels: the side must be a multiple "
                f"of {STRIDE} and at least {SMALLEST_IMAGE}, so set `image_size` (and `slice_size` "
                f"of the data) to {fitting}."
            )
        self.size = size
        self.grid: int = image_size // STRIDE
        self.stem = ModalityStem(f"TransUNet of size {size}", modalities, image_size)
        self.resnet = ResNetV2(preset.width, preset.units)
        self.patch_embedding = nn.Conv2d(self.resnet.out_channels, preset.hidden, kernel_size=1)
        self.position_embedding = nn.Parameter(torch.zeros(1, self.grid**2, preset.hidden))
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(
            *(EncoderLayer(preset.hidden, preset.heads) for _ in range(preset.layers))
        )
        self.norm = nn.LayerNorm(preset.hidden, eps=1e-6)
        bottom = 2 * preset.cup[0]
        self.bottom = nn.Sequential(*_convolution(preset.hidden, bottom))
        self.ups = nn.ModuleList(
            UpBlock(below, skip, out)
            for below, skip, out in zip(
                (bottom, *preset.cup[:-1]),
                (*self.resnet.skip_channels, 0),
                preset.cup,
                strict=True,
            )
        )
        self.feature_channels: int = preset.cup[-1]
        self.output = nn.Conv2d(self.feature_channels, regions, kernel_size=3, padding=1)

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the last feature map (B, feature_channels, S, S), the decoder's output."""
        coarsest, skips = self.resnet(self.stem(image))
        tokens = self.patch_embedding(coarsest).flatten(2).transpose(1, 2)  # (B, grid^2, hidden)
        tokens = self.norm(self.layers(self.dropout(tokens + self.position_embedding)))
        features = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        features = self.bottom(features)  # (B, 2 cup[0], grid, grid)
        for up, skip in zip(self.ups, (*skips, None), strict=True):
            features = up(features, skip)
        return features

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, regions, S, S) of a feature map."""
        return self.output(features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, regions, S, S) of an image."""
        return self.head(self.features(image))

    def load_pretrained(self, state: Mapping[str, torch.Tensor]) -> list[str]:
        """Load the encoder from the published `R50+ViT-B_16.npz`, by its own names.

        The class token is left out and the position embedding resized to the grid; decoder, head
        and the 1x1 convolution in front keep their values.

        Args:
            state: the file's arrays as tensors.

        Returns:
            The expected names that the file lacks.

        Raises:
            InputError: not that file; nothing is changed.
        """
        sources = self.resnet.official_sources("resnet.") | {
            "patch_embedding.weight": Source(("embedding/kernel",), convolution_kernel),
            "patch_embedding.bias": Source(("embedding/bias",)),
            "position_embedding": Source(
                ("Transformer/posembed_input/pos_embedding",), self._resized_positions
            ),
            "norm.weight": Source(("Transformer/encoder_norm/scale",)),
            "norm.bias": Source(("Transformer/encoder_norm/bias",)),
        }
        for index in range(len(self.layers)):
            sources |= _layer_sources(f"layers.{index}.", f"Transformer/encoderblock_{index}/")
        return load_official(self, sources, state, file="R50+ViT-B_16.npz, made for `size: base`")

    def _resized_positions(self, published: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(published.shape[1])
        positions = published[:, published.shape[1] - side**2 :]  # without the class token
        grid = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        # Corners stay corners, as in the authors' scipy.ndimage.zoom of order 1.
        grid = functional.interpolate(grid, [self.grid] * 2, mode="bilinear", align_corners=True)
        return grid.flatten(2).transpose(1, 2)


def _convolution(in_channels: int, out_channels: int) -> Sequence[nn.Module]:
    return (
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _transposed(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.t()


def _merged_heads(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.flatten(0, 1).t()  # (heads, head, hidden) to (hidden, heads x head)


def _query_key_value(*kernels: torch.Tensor) -> torch.Tensor:
    return torch.cat([kernel.flatten(1).t() for kernel in kernels])  # (hidden, heads, head) each


def _query_key_value_bias(*biases: torch.Tensor) -> torch.Tensor:
    return torch.cat([bias.flatten() for bias in biases])  # (heads, head) each


def _layer_sources(own: str, official: str) -> dict[str, Source]:
    attention = official + "MultiHeadDotProductAttention_1/"
    mlp = official + "MlpBlock_3/"
    parts = ("query", "key", "value")
    return {
        own + "norm1.weight": Source((official + "LayerNorm_0/scale",)),
        own + "norm1.bias": Source((official + "LayerNorm_0/bias",)),
        own + "attn.in_proj_weight": Source(
            tuple(f"{attention}{part}/kernel" for part in parts), _query_key_value
        ),
        own + "attn.in_proj_bias": Source(
            tuple(f"{attention}{part}/bias" for part in parts), _query_key_value_bias
        ),
        own + "attn.out_proj.weight": Source((attention + "out/kernel",), _merged_heads),
        own + "attn.out_proj.bias": Source((attention + "out/bias",)),
        own + "norm2.weight": Source((official + "LayerNorm_2/scale",)),
        own + "norm2.bias": Source((official + "LayerNorm_2/bias",)),
        own + "mlp.linear1.weight": Source((mlp + "Dense_0/kernel",), _transposed),
        own + "mlp.linear1.bias": Source((mlp + "Dense_0/bias",)),
        own + "mlp.linear2.weight": Source((mlp + "Dense_1/kernel",), _transposed),
        own + "mlp.linear2.bias": Source((mlp + "Dense_1/bias",)),
    }
