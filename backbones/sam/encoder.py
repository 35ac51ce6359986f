"""SAM's image encoder: a plain vision transformer with windows, computed without their padding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from backbones.sam.attention import SamAttention
from backbones.sam.image_encoder import ImageEncoder
from backbones.sam.linear import linear
from backbones.sam.variants import EMBEDDING, PATCH, WINDOW, ViTShape, grid_of, variant_of
from errors import InputError

CACHED_TOKENS = 1024  # tokens that pass through a processor together


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map (B, C, h, w), in single precision."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the normalised map."""
        return super().forward(input.permute(0, 2, 3, 1).float()).permute(0, 3, 1, 2)


class SamMlp(nn.Module):
    """Two layers with a GELU between them, (..., C) to the same.

    Args:
        dim: channels of a token; four times as many are hidden.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, 4 * dim)
        self.lin2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the new tokens."""
        return linear(self.lin2, linear(self.lin1, tokens, gelu=True))


class SamBlock(nn.Module):
    """One transformer block, (B, h, w, C) to the same.

    Args:
        dim: channels of a token.
        heads: heads of the attention.
        window: tokens a side of a window, or of the grid for attention over all of it.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SamAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = SamMlp(dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the block's tokens."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbedding(nn.Module):
    """A token of every 16 x 16 pixels: (B, 3, S, S) to (B, S/16, S/16, C).

    Args:
        dim: channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens of an image."""
        return self.proj(image).permute(0, 2, 3, 1)


class SamImageEncoder(ImageEncoder):
    """The image encoder of SAM (Kirillov et al., https://arxiv.org/abs/2304.02643).

    The same function as segment_anything's ImageEncoderViT, under its weight names:
    (B, 3, S, S) to (B, 256, S/16, S/16). Its steps can be taken one by one, see `ImageEncoder`.

    Args:
        variant: `vit_b`, `vit_l`, `vit_h` or `medsam_vit_b`, or a shape.
        image_size: side of the image, pixels, a multiple of 16.

    Raises:
        InputError: unknown variant, a size that is no multiple of 16, an image of another size.
    """

    def __init__(self, variant: str | ViTShape = "vit_b", image_size: int = 256) -> None:
        super().__init__()
        shape = variant_of(variant).shape if isinstance(variant, str) else variant
        if not isinstance(shape, ViTShape):
            raise InputError(
                f"{variant} is no plain vision transformer: build it by `backbones.TinyViT`."
            )
        grid = grid_of(image_size)
        self.image_size = image_size
        self.stride = shape.stride
        self.widths = shape.widths
        self.patch_embed = PatchEmbedding(shape.dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, shape.dim))
        self.blocks = nn.ModuleList(
            SamBlock(shape.dim, shape.heads, grid if index in shape.global_blocks else WINDOW)
            for index in range(shape.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(shape.dim, EMBEDDING, kernel_size=1, bias=False),
            ChannelNorm(EMBEDDING, eps=1e-6),
            nn.Conv2d(EMBEDDING, EMBEDDING, kernel_size=3, padding=1, bias=False),
            ChannelNorm(EMBEDDING, eps=1e-6),
        )

    @property
    def attention_blocks(self) -> Sequence[Any]:
        """Return all blocks."""
        return list(self.blocks)

    def step(self, index: int, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, h, w, c) after a block."""
        return self.blocks[index](tokens)

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, S/16, S/16, C) of an image (B, 3, S, S), with their positions."""
        self.check_image(image)
        return (self.patch_embed(image) + self.pos_embed).contiguous()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, 256, S/16, S/16) of an image (B, 3, S, S)."""
        if image.device.type == "cpu" and not torch.is_grad_enabled():
            # Few images at a time stay in the processor's cache, and their memory is reused.
            together = max(1, CACHED_TOKENS // (image.shape[-1] // PATCH) ** 2)
            return torch.cat([self.encode(part) for part in image.split(together)])
        return self.encode(image)
