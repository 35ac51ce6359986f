"""Global attention between voxels of two feature maps, by fused kernels or on a pooled grid."""

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from errors import InputError

AttentionMode = Literal["exact", "pooled", "channel", "plane", "none"]
MODES: tuple[AttentionMode, ...] = ("exact", "pooled", "channel", "plane", "none")

# Queries are dealt to this many heads on a processor: the fused kernel's backward pass runs one
# head a thread, so with one head and one patch all cores but one would wait (up to 1.8x slower on
# two). A fixed number, because sums that follow the number of cores would not repeat elsewhere.
CPU_HEADS = 8


class GlobalFusionAttention(nn.Module):
    """(softmax(Q K^T / sqrt(d)) V) * V over all voxels of a patch, one token a voxel.

    Section "global-fusion attention" of Vo-Thanh et al., "3D Dual-Fusion Attention Network for
    Brain Tumor Segmentation"; the last product is element by element. As written it is quadratic
    in V, and nothing in the paper holds its scale: trained so, the logits of a head reached a
    median of 100 and stopped learning. So the attended values A = softmax(Q K^T / sqrt(d)) V enter
    the product as A / sqrt(1 + mean of A^2 over the channels of a voxel): as A where they are
    small, and never with a root mean square above 1.

    Args:
        mode: `exact` lets every voxel attend to every voxel, in memory linear in the voxels;
            `pooled` is exact up to `exact_below` voxels and above it averages keys and values
            over a coarse grid, while every voxel keeps its own query; `channel` attends between
            channels; `plane` is what the paper's released code computes: a matrix product of the
            last two axes for each channel and slice, keys not transposed, softmax over channels;
            `none` returns V.
        kv_grid: cells a side of the coarse grid of `pooled`; an axis shorter than that is not
            pooled.
        exact_below: largest number of voxels that `pooled` treats exactly.
        bounded: false computes the paper's product as written; so does the mode `plane`.

    Raises:
        InputError: unknown mode; a patch that is not cubic in mode `plane`; maps that differ.
    """

    def __init__(
        self,
        mode: AttentionMode = "pooled",
        kv_grid: int = 16,
        exact_below: int = 32768,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise InputError(
                f"The attention mode {mode!r} does not exist: set `attention` to one of "
                f"{', '.join(MODES)}."
            )
        if kv_grid < 1:
            raise InputError(
                f"`kv_grid` is {kv_grid} where at least one cell a side was expected: set it to "
                "a positive number such as 8 or 16."
            )
        self.mode = mode
        self.kv_grid = kv_grid
        self.exact_below = exact_below
        self.bounded = bounded

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return the attended values times the values.

        Args:
            query: (B, C, D, H, W).
            key: (B, C, D, H, W).
            value: (B, C, D, H, W).

        Returns:
            (B, C, D, H, W).
        """
        if not query.shape == key.shape == value.shape:
            raise InputError(
                f"The feature maps to fuse have shapes {tuple(query.shape)}, {tuple(key.shape)} "
                f"and {tuple(value.shape)} where equal ones were expected: give every network "
                "the same patch."
            )
        if self.mode == "none":
            return value
        if self.mode == "plane":
            return plane_attention(query, key, value) * value
        attended = self._attended(query, key, value)
        return (bounded(attended) if self.bounded else attended) * value

    def _attended(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        if self.mode == "channel":
            return channel_attention(query, key, value)
        if self.mode == "pooled" and query[0, 0].numel() > self.exact_below:
            depth, height, width = query.shape[2:]
            grid = (
                min(self.kv_grid, depth),
                min(self.kv_grid, height),
                min(self.kv_grid, width),
            )
            coarse_key = functional.adaptive_avg_pool3d(key, grid)
            coarse_value = functional.adaptive_avg_pool3d(value, grid)
            return voxel_attention(query, coarse_key, coarse_value)
        return voxel_attention(query, key, value)

    def extra_repr(self) -> str:
        """Return what distinguishes this layer, for `print(model)`."""
        numbers = f"kv_grid={self.kv_grid}, exact_below={self.exact_below}"
        return f"mode={self.mode}, {numbers}, bounded={self.bounded}"


def bounded(gain: torch.Tensor) -> torch.Tensor:
    """Return a gain (B, C, D, H, W) whose root mean square over channels is below 1.

    It equals the given one where that is small.
    """
    power = gain.float().square().mean(dim=1, keepdim=True)  # squares of half precision overflow
    return gain * torch.rsqrt(1 + power).to(gain.dtype)


def voxel_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(Q K^T / sqrt(C)) V, one token a voxel, without ever holding the matrix.

    The fused kernel also where keys are few: 2 x 110,592 queries on 512 keys of 16 channels take
    it 0.27 s forward and backward on two cores, the plain products 1.17 s.

    Args:
        query: (B, C, D, H, W).
        key: (B, C, d, h, w), of any grid.
        value: (B, C, d, h, w), of the keys' grid.

    Returns:
        (B, C, D, H, W).
    """
    batch, channels, *grid = query.shape
    queries, keys, values = _tokens(query), _tokens(key), _tokens(value)  # (B, 1, N, C)
    heads = CPU_HEADS
    if query.device.type == "cpu" and queries.shape[2] % heads == 0:
        queries = queries.view(batch, heads, -1, channels)
        keys = keys.expand(batch, heads, -1, channels)
        values = values.expand(batch, heads, -1, channels)
    attended = functional.scaled_dot_product_attention(queries, keys, values)
    return attended.reshape(batch, *grid, channels).permute(0, 4, 1, 2, 3)


def channel_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(Q K^T / sqrt(N)) V, one token a channel of N voxels; all (B, C, D, H, W)."""
    queries, keys, values = query.flatten(2), key.flatten(2), value.flatten(2)  # (B, C, N)
    scale = 1 / math.sqrt(queries.shape[2])
    weights = torch.softmax(queries @ keys.transpose(1, 2) * scale, dim=-1)  # (B, C, C)
    return (weights @ values).reshape(value.shape)


def plane_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return the released code's product over the last two axes; all (B, C, D, H, W), cubic.

    Raises:
        InputError: the patch is not cubic.
    """
    channels, *grid = query.shape[1:]
    if len(set(grid)) != 1:
        raise InputError(
            f"The attention mode 'plane' of the released code takes cubic patches only and got "
            f"{' x '.join(map(str, grid))} voxels: set an equal `patch_size` on every axis, or "
            "`attention` to 'pooled'."
        )
    weights = torch.softmax(query @ key / math.sqrt(channels), dim=1)  # over the channels
    return weights @ value


def _tokens(feature_map: torch.Tensor) -> torch.Tensor:
    """Return a map (B, C, D, H, W) as contiguous tokens (B, 1, N, C).

    A transposed view would do for the result, but takes the plain kernel: at 262,144 x 4,096
    tokens of 16 channels 46 s and 12.3 GB instead of 2.4 s and 55 MB. A map in channels-last
    order is contiguous already, and is not copied.
    """
    return feature_map.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
