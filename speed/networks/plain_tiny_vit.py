"""TinyViT written plainly: batch norms of their own, one permutation a layer, no joint batch."""

import math

import torch
from torch import nn
from torch.nn import functional

from backbones.sam.tiny_vit import TinyViT


class PlainTinyViT(nn.Module):
    """The same function as an encoder, layer by layer as its papers write it.

    Convolutions work on (B, C, h, w) and are followed by a batch norm; attention and layers on
    tokens (B, n, C), with one pass through the windows a block; the bias of every two tokens is
    looked up in each.

    Args:
        encoder: source of the weights, which are shared; its size needs no padding of windows.
    """

    def __init__(self, encoder: TinyViT) -> None:
        super().__init__()
        self.encoder = encoder

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the feature map (B, 128, h, w) before the first attention block."""
        features = self._conv(self.encoder.patch_embed.seq[0], image)
        features = self._conv(self.encoder.patch_embed.seq[2], functional.gelu(features))
        first = self.encoder.layers[0]
        for block in first.blocks:
            hidden = functional.gelu(self._conv(block.conv1, features))
            hidden = functional.gelu(self._conv(block.conv2, hidden))
            features = functional.gelu(features + self._conv(block.conv3, hidden))
        return self._smaller(first.downsample, features)

    def step(self, index: int, features: torch.Tensor) -> torch.Tensor:
        """Return the feature map after attention block `index`."""
        stages = list(self.encoder.layers)
        number, place = 1, index
        while place >= len(stages[number].blocks):
            place -= len(stages[number].blocks)
            number += 1
        if place == 0 and number > 1:
            features = self._smaller(stages[number - 1].downsample, features)
        return self._block(stages[number].blocks[place], features)

    def _block(self, block: nn.Module, features: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = features.shape
        tokens = features.flatten(2).transpose(1, 2)
        attention, size = block.attn, block.attn.window
        grid = tokens.view(batch, height, width, channels)
        windows = (
            grid.view(batch, height // size, size, width // size, size, channels)
            .transpose(2, 3)
            .reshape(-1, size * size, channels)
        )
        query, key, value = (
            attention.qkv(attention.norm(windows))
            .view(len(windows), size * size, attention.heads, -1)
            .permute(0, 2, 1, 3)
            .chunk(3, dim=-1)
        )
        bias = attention.attention_biases[:, attention.index]
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1])) + bias
        attended = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        windows = attention.proj(attended)
        grid = windows.view(batch, height // size, width // size, size, size, channels)
        tokens = tokens + grid.transpose(2, 3).reshape(batch, height * width, channels)
        local = self._conv(
            block.local_conv, tokens.transpose(1, 2).reshape(batch, channels, height, width)
        )
        tokens = local.flatten(2).transpose(1, 2)
        mlp = block.mlp
        tokens = tokens + mlp.fc2(functional.gelu(mlp.fc1(mlp.norm(tokens))))
        return tokens.transpose(1, 2).reshape(batch, channels, height, width)

    def _smaller(self, layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
        hidden = functional.gelu(self._conv(layer.conv1, features))
        return self._conv(layer.conv3, functional.gelu(self._conv(layer.conv2, hidden)))

    def _conv(self, layer: nn.Module, features: torch.Tensor) -> torch.Tensor:
        return layer.bn(layer.c(features))
