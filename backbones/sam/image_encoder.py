"""The common interface of SAM's image encoders: a chain of attention blocks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from errors import InputError


class ImageEncoder(nn.Module, ABC):
    """An image encoder of SAM: (B, 3, S, S) to the embedding (B, 256, S / stride, S / stride).

    Whatever adapts an encoder treats it as a chain of attention blocks, whichever it is::

        tokens = encoder.embed(image)  # (B, h, w, c): all before the first attention block
        for index in range(len(encoder.attention_blocks)):
            tokens = encoder.step(index, tokens)  # (B, h, w, encoder.widths[index])
            ...  # here the tokens may be changed, for instance by an adapter
        embedding = encoder.finish(tokens)  # (B, 256, h, w)

    `step` downsamples first where a block begins another stage. For methods that act inside a
    block: every block of `attention_blocks` has the submodules `attn`, with the linear layers
    `attn.qkv` (c to 3c) and `attn.proj` (c to c), and `mlp`. Both submodules map (B, h, w, c) to
    the same shape and may be replaced by any module that does; the linear layers may be replaced
    by any module of the same shapes. `attn.interleaved` is whether the 3c channels hold query, key
    and value for each of `attn.heads` in turn.

    Attributes:
        image_size: side of the image, pixels.
        stride: pixels between neighbouring positions of the embedding.
        widths: channels of the tokens after every attention block.
    """

    neck: nn.Module
    image_size: int
    stride: int
    widths: tuple[int, ...]

    @property
    @abstractmethod
    def attention_blocks(self) -> Sequence[Any]:
        """Return the attention blocks in their order."""

    @abstractmethod
    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, h, w, c) before the first attention block."""

    @abstractmethod
    def step(self, index: int, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens after attention block `index` of those after the one before it."""

    def check_image(self, image: torch.Tensor) -> None:
        """Check that an image is (B, 3, S, S).

        Raises:
            InputError: another shape.
        """
        side = self.image_size
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise InputError(
                f"SAM's encoder got an image of shape {tuple(image.shape)} where (batch, 3, "
                f"{side}, {side}) was expected: set `image_size` to the side of your slices."
            )

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embedding (B, 256, h, w) of the last block's tokens (B, h, w, c)."""
        return self.neck(tokens.permute(0, 3, 1, 2))

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Return the embedding of an image, all of a batch at once."""
        tokens = self.embed(image)
        for index in range(len(self.attention_blocks)):
            tokens = self.step(index, tokens)
        return self.finish(tokens)
