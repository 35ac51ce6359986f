"""SAM's attention with decomposed relative positions, by fused kernels and without padding."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from backbones.sam.linear import linear

# Up to so many keys the matrix itself is quicker on a processor than the fused kernel: 196 keys of
# 48 heads take 5.6 ms instead of 10.4 in bfloat16, with the backward pass 18 instead of 40 (in
# float32 30 instead of 41). A window never has more, and 512 pixels have as many in all.
SHORT = 1024


class SamAttention(nn.Module):
    """Multi-head attention in windows or over the whole grid, as in segment_anything.

    Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection"
    (https://arxiv.org/abs/2203.16527), relative positions of Li et al., "MViTv2"
    (https://arxiv.org/abs/2112.01526). Weight names are segment_anything's.

    Its code pads the grid to whole windows and projects the padding too. Here only real tokens
    are projected, and the padding tokens of a window, which all have the bias as key and value,
    become ONE key: their relative-position terms are a sum over rectangles of a row term and a
    column term, so that their common weight is a sum of products of two short sums. Relative
    positions ride along in the products of queries and keys: a query carries its position terms,
    a key the one-hot row and column they belong to. Kernels without a bias then apply, and memory
    stays linear in the tokens.

    Args:
        dim: channels of a token.
        heads: heads of the attention.
        window: tokens a side of a window, or of the grid for attention over all of it.
    """

    interleaved = False  # `qkv` gives all queries, then all keys, then all values

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.width = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, self.width))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, self.width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the attended tokens, (B, h, w, C) as they came."""
        height, width = tokens.shape[1:3]
        query, key, value = (
            linear(self.qkv, tokens).unflatten(-1, (3, self.heads, self.width)).unbind(3)
        )  # (B, h, w, heads, d)
        rows = torch.einsum("bhwnc,hkc->bhwnk", query, self._table(self.rel_pos_h, height))
        columns = torch.einsum("bhwnc,wkc->bhwnk", query, self._table(self.rel_pos_w, width))
        query = query / math.sqrt(self.width)
        strips = []
        for top, down in _spans(height, self.window):
            pieces = []
            for left, across in _spans(width, self.window):
                region = [
                    _windows(one[:, top, left], down, across)
                    for one in (query, rows, columns, key, value)
                ]
                pieces.append(self._attend(*region))
            strips.append(_join(pieces, dim=2))
        return linear(self.proj, _join(strips, dim=1))

    def _table(self, positions: torch.Tensor, size: int) -> torch.Tensor:
        """Return the positions (size, window, d) of every row or column to those of its window."""
        here = torch.arange(size, device=positions.device) % self.window
        there = torch.arange(self.window, device=positions.device)
        return positions[here[:, None] - there[None, :] + self.window - 1]

    def _attend(
        self,
        query: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Return the attended tokens (B, m * r, n * c, C) of m x n windows of r x c real tokens.

        Every argument is (B, m, n, heads, r, c, ...): d channels or `window` position terms.
        """
        batch, down, across, heads, height, width, _ = query.shape
        queries = [query, rows[..., :height], columns[..., :width]]
        where = torch.cat(
            [
                _one_hot(query, height).repeat_interleave(width, dim=0),
                _one_hot(query, width).repeat(height, 1),
            ],
            dim=1,
        ).view(height, width, -1)  # one-hot row and column of every key
        keys = [key, where.expand(*key.shape[:-1], -1)]
        padded = height < self.window or width < self.window
        if padded:
            queries += self._padding(rows, columns, height, width)
            keys.append(key.new_zeros(()).expand(*key.shape[:-1], 2))
        region = [_tokens(torch.cat(queries, dim=-1)), _tokens(torch.cat(keys, dim=-1))]
        region.append(_tokens(value))
        if padded:
            region[1:] = self._with_padding(*region[1:])
        return (
            _attention(*region)  # (B * m * n, heads, r * c, d)
            .unflatten(0, (batch, down, across))
            .unflatten(4, (height, width))
            .permute(0, 1, 4, 2, 5, 3, 6)
            .reshape(batch, down * height, across * width, heads * self.width)
        )

    def _padding(
        self, rows: torch.Tensor, columns: torch.Tensor, height: int, width: int
    ) -> list[torch.Tensor]:
        """Return the logarithm of all padding weights, as a sum of two terms (..., 1) each.

        Below the real rows lies padding of every column, beside them that of the columns left.
        Two terms, because in bfloat16 one would be a hundredth off, and with it the weight.
        """
        row, column = rows.float(), columns.float()
        parts = []
        if height < self.window:
            parts.append(row[..., height:].logsumexp(-1) + column.logsumexp(-1))
        if width < self.window:
            parts.append(row[..., :height].logsumexp(-1) + column[..., width:].logsumexp(-1))
        whole = (parts[0] if len(parts) == 1 else torch.logaddexp(*parts)).unsqueeze(-1)
        coarse = whole.to(rows.dtype)
        return [coarse, (whole - coarse.float()).to(rows.dtype)]

    def _with_padding(
        self, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the one key and value of all padding to those (N, heads, L, ...) of a region."""
        _, key_bias, value_bias = self.qkv.bias.to(key.dtype).view(3, self.heads, 1, -1)
        positions = key.new_zeros(self.heads, 1, key.shape[-1] - self.width)
        positions[..., -2:] = 1  # where queries carry the two terms of `_padding`
        one_key = torch.cat([key_bias, positions], dim=-1)
        return (
            torch.cat([key, one_key.expand(len(key), -1, -1, -1)], dim=2),
            torch.cat([value, value_bias.expand(len(value), -1, -1, -1)], dim=2),
        )


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(Q K^T) V, (N, heads, L, d) of queries and keys (N, heads, L, D)."""
    if query.device.type == "cpu" and key.shape[2] <= SHORT:
        return torch.softmax(query @ key.transpose(2, 3), dim=-1) @ value
    # Kernels want equal channels in queries, keys and values, and a multiple of eight.
    channels = -(-query.shape[-1] // 8) * 8
    query, key, padded = (
        functional.pad(one, (0, channels - one.shape[-1])) for one in (query, key, value)
    )
    return functional.scaled_dot_product_attention(query, key, padded, scale=1.0)[
        ..., : value.shape[-1]
    ]


def _spans(size: int, window: int) -> Iterator[tuple[slice, int]]:
    """Yield the part of an axis in whole windows, then the rest, each with its windows."""
    whole = size // window
    if whole:
        yield slice(0, whole * window), whole
    if size % window:
        yield slice(whole * window, size), 1


def _windows(region: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """Return a region (B, h, w, heads, e) as windows (B, m, n, heads, h / m, w / n, e)."""
    return region.unflatten(1, (down, -1)).unflatten(3, (across, -1)).permute(0, 1, 3, 5, 2, 4, 6)


def _tokens(windows: torch.Tensor) -> torch.Tensor:
    """Return windows (B, m, n, heads, r, c, e) as tokens (B * m * n, heads, r * c, e)."""
    return windows.flatten(4, 5).flatten(0, 2)


def _one_hot(like: torch.Tensor, size: int) -> torch.Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _join(pieces: list[torch.Tensor], dim: int) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
