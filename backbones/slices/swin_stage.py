"""Swin transformer blocks on one grid, and the expansion from one grid to a finer one."""

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask
from torch import nn


class SwinStage(nn.Module):
    """Swin transformer blocks on one grid, in turn with plain and with shifted windows.

    MONAI's blocks (Liu et al., https://arxiv.org/abs/2103.14030). `forward(tokens)`:
    (B, side, side, dim) to the same shape.

    Args:
        dim: channels of a token.
        heads: heads of the attention.
        side: side of the grid, tokens.
        window: side of a window, tokens; a grid no larger than it is one window.
        drop_path: for each block, the rate at which it is skipped in training.
    """

    mask: torch.Tensor | None

    def __init__(
        self, dim: int, heads: int, side: int, window: int, drop_path: Sequence[float]
    ) -> None:
        super().__init__()
        # Cut here: MONAI's block would cut the window too, but read the wrong relative positions.
        window = min(window, side)
        shift = window // 2 if side > window else 0
        self.window: int = window
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(
                dim,
                heads,
                window_size=(window, window),
                shift_size=(shift * (index % 2),) * 2,
                drop_path=rate,
            )
            for index, rate in enumerate(drop_path)
        )
        device = torch.get_default_device()
        mask = compute_mask([side] * 2, (window,) * 2, (shift,) * 2, device) if shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the tokens after every block, (B, side, side, dim)."""
        for block in self.blocks:
            tokens = block(tokens, self.mask)
        return tokens


class PatchExpanding(nn.Module):
    """Make `scale` x `scale` tokens of each: a linear layer, a rearrangement, a normalisation.

    `forward(tokens)`: (B, H, W, in_dim) to (B, scale H, scale W, out_dim).

    Args:
        in_dim: channels in.
        out_dim: channels out.
        scale: factor between the grids.
    """

    def __init__(self, in_dim: int, out_dim: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(in_dim, scale**2 * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the finer grid (B, scale H, scale W, out_dim)."""
        scale = self.scale
        tokens = self.expand(tokens).unflatten(-1, (scale, scale, -1))  # (B, H, W, p, q, out_dim)
        tokens = tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, H p, W q, out_dim)
        return self.norm(tokens)
