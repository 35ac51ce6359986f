"""SAMed: low-rank updates of the query and value projections of a frozen SAM."""

import math
from typing import Any

import torch
from torch import nn

from adapters.frozen_sam import EarlyFusionSam
from errors import InputError


class LowRankUpdate(nn.Module):
    """Low-rank update of the queries and values of one attention: (..., c) to (..., 3c), keys 0.

    Two products of two thin matrices each, B (A x); A starts random and B at zero, so training
    starts at the frozen attention.

    Args:
        channels: channels of a token, c.
        heads: heads of the attention.
        rank: rows of A.
        interleaved: whether query, key and value follow each other in every head.
    """

    def __init__(self, channels: int, heads: int, rank: int, interleaved: bool) -> None:
        super().__init__()
        self.heads = heads
        self.place = -2 if interleaved else -3  # of query, key, value among (heads, c / heads)
        down = [nn.Linear(channels, rank, bias=False) for _ in range(2)]
        up = [nn.Linear(rank, channels, bias=False) for _ in range(2)]
        for first, second in zip(down, up, strict=True):
            nn.init.kaiming_uniform_(first.weight, a=math.sqrt(5))
            nn.init.zeros_(second.weight)
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the update of the projections of tokens."""
        query, value = (
            up(down(tokens)).unflatten(-1, (self.heads, -1))
            for down, up in zip(self.down, self.up, strict=True)
        )
        return torch.stack([query, torch.zeros_like(query), value], self.place).flatten(-3)


class LowRankLinear(nn.Linear):
    """A frozen projection to queries, keys and values plus its update.

    It has the frozen layer's weights under their names. The update belongs to the network, not to
    this layer, so that the encoder's state dict stays that of the frozen base.

    Args:
        frozen: the layer to take the place of.
        update: what is added.
    """

    def __init__(self, frozen: nn.Linear, update: LowRankUpdate) -> None:
        super().__init__(frozen.in_features, frozen.out_features, device="meta")
        self.weight, self.bias = frozen.weight, frozen.bias
        self.__dict__["update"] = update  # not a submodule

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the projections (..., 3c) of tokens (..., c)."""
        update: LowRankUpdate = self.__dict__["update"]
        return super().forward(input) + update(input)


class LowRankSam(EarlyFusionSam):
    """A frozen SAM with low-rank updates of every attention, behind early fusion.

    Zhang & Liu, "Customized Segment Anything Model for Medical Image Segmentation" (SAMed,
    https://arxiv.org/abs/2304.13785, section 3.2), after Hu et al., "LoRA"
    (https://arxiv.org/abs/2106.09685). Updates act on queries and values of all attention blocks.
    SAMed's images have three colours; here a 1x1 convolution makes them of four modalities, as for
    `EarlyFusionSam`. Convolution, updates and decoder are trained; SAMed also trains the
    prompt encoder's one default embedding, which stays frozen here.

    Args:
        variant: as for `FrozenSam`.
        image_size: side of a slice, pixels, a multiple of the variant's stride.
        regions: regions that are segmented.
        rank: rank of the updates; SAMed's is 4.

    Raises:
        InputError: unknown variant; a size that it cannot take; a rank below 1 or above the width
            of the narrowest block.
    """

    def __init__(
        self, variant: str = "vit_b", image_size: int = 256, regions: int = 1, rank: int = 4
    ) -> None:
        super().__init__(variant, image_size, regions)
        narrowest = min(self.encoder.widths)
        if not 1 <= rank <= narrowest:
            raise InputError(
                f"`rank` is {rank}: set it to a number from 1 to {narrowest}, the channels of the "
                f"narrowest block of {variant}."
            )
        self.updates = nn.ModuleList()
        for block, width in zip(self.encoder.attention_blocks, self.encoder.widths, strict=True):
            attention: Any = block.attn
            update = LowRankUpdate(width, attention.heads, rank, attention.interleaved)
            attention.qkv = LowRankLinear(attention.qkv, update)
            self.updates.append(update)
