"""SAM's attention with decomposed relative positions, by fused kernels and without padding."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional


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
        heads: of the attention.
        window: tokens a side of a window, or of the grid for attention over all of it.
    """

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
            self.qkv(tokens).unflatten(-1, (3, self.heads, self.width)).unbind(3)
        )  # (B, h, w, heads, d)
        rows = torch.einsum("bhwnc,hkc->bhwnk", query, self._table(self.rel_pos_h, height))
        columns = torch.einsum("bhwnc,wkc->bhwnk", query, self._table(self.rel_pos_w, width))
        strips = []
        for top, down in _spans(height, self.window):
            pieces = []
            for left, across in _spans(width, self.window):
                region = [
                    _windows(one[:, top, left], down, across)
                    for one in (query, rows, columns, key, value)
                ]
                pieces.append(self._attend(*region))  # (B, rows, columns, C)
            strips.append(_join(pieces, dim=2))
        return self.proj(_join(strips, dim=1))

    def _table(self, positions: torch.Tensor, size: int) -> torch.Tensor:
        """Return the positions (size, window, d) of every row or column to those of its window.

        Times sqrt(d), because the attention divides by it and these terms are not to be divided.
        """
        here = torch.arange(size, device=positions.device) % self.window
        there = torch.arange(self.window, device=positions.device)
        return (positions * math.sqrt(self.width))[here[:, None] - there[None, :] + self.window - 1]

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
        batch, down, across, heads, height, width, channels = query.shape
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
        # Kernels want equal channels in queries, keys and values, and a multiple of eight.
        wide = channels + height + width + 2 * padded
        fill = query.new_zeros(()).expand(*query.shape[:-1], -wide % 8)
        wide += -wide % 8
        joined_query = torch.cat([*queries, fill], dim=-1).flatten(4, 5).flatten(0, 2)
        joined_key = torch.cat([*keys, fill], dim=-1).flatten(4, 5).flatten(0, 2)
        joined_value = functional.pad(value, (0, wide - channels)).flatten(4, 5).flatten(0, 2)
        if padded:
            joined_key, joined_value = self._with_padding(joined_key, joined_value, height + width)
        attended = functional.scaled_dot_product_attention(
            joined_query, joined_key, joined_value, scale=1 / math.sqrt(channels)
        )[..., :channels]  # (B * m * n, heads, r * c, d)
        return (
            attended.unflatten(0, (batch, down, across))
            .unflatten(4, (height, width))
            .permute(0, 1, 4, 2, 5, 3, 6)
            .reshape(batch, down * height, across * width, heads * channels)
        )

    def _padding(
        self, rows: torch.Tensor, columns: torch.Tensor, height: int, width: int
    ) -> list[torch.Tensor]:
        """Return the logarithm of all padding weights, as a sum of two terms (..., 1) each.

        Below the real rows lies padding of every column, beside them that of the columns left.
        Two terms, because in bfloat16 one would be a hundredth off, and with it the weight.
        """
        scale = math.sqrt(self.width)
        row, column = rows.float() / scale, columns.float() / scale
        parts = []
        if height < self.window:
            parts.append(row[..., height:].logsumexp(-1) + column.logsumexp(-1))
        if width < self.window:
            parts.append(row[..., :height].logsumexp(-1) + column[..., width:].logsumexp(-1))
        whole = parts[0] if len(parts) == 1 else torch.logaddexp(*parts)
        whole = (whole * scale).unsqueeze(-1)
        coarse = whole.to(rows.dtype)
        return [coarse, (whole - coarse.float()).to(rows.dtype)]

    def _with_padding(
        self, key: torch.Tensor, value: torch.Tensor, positions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the one key and value of all padding to those (N, heads, L, D) of a region."""
        _, key_bias, value_bias = self.qkv.bias.to(key.dtype).view(3, self.heads, 1, -1)
        size, heads, _, wide = key.shape
        channels = key_bias.shape[-1]
        switch = key.new_zeros(heads, 1, wide - channels)
        switch[..., positions : positions + 2] = 1
        one_key = torch.cat([key_bias, switch], dim=-1)
        one_value = functional.pad(value_bias, (0, wide - channels))
        return (
            torch.cat([key, one_key.expand(size, -1, -1, -1)], dim=2),
            torch.cat([value, one_value.expand(size, -1, -1, -1)], dim=2),
        )


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


def _one_hot(like: torch.Tensor, size: int) -> torch.Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _join(pieces: list[torch.Tensor], dim: int) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
