"""Bottleneck adapters inside every block of a frozen SAM, without exchange between streams."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from adapters.cross_modality import GROUPS, CrossModalitySam, Merge
from errors import InputError

SCALE = 0.5  # of the adapter beside the MLP, as in the paper's code


class Bottleneck(nn.Module):
    """Two layers to fewer channels and back, (..., c) to the same; its output starts at zero.

    Args:
        channels: channels of a token, c.
        hidden: channels between the layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what is added to tokens."""
        return self.up(functional.gelu(self.down(tokens)))

    def behind(
        self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        """Add to the output of a layer, which is the adapter's input (a forward hook)."""
        return output + self(output)

    def beside(
        self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        """Add to the output of a layer, whose input is the adapter's too (a forward hook)."""
        return output + SCALE * self(inputs[0])


class BottleneckSam(CrossModalitySam):
    """A frozen SAM of two streams with bottleneck adapters in every block of both.

    Wu et al., "Medical SAM Adapter: Adapting Segment Anything Model for Medical Image Segmentation"
    (https://arxiv.org/abs/2304.12620, section 3.2): one adapter behind the attention and one beside
    the MLP. The streams of `CrossModalitySam` pass through them without exchange, so the comparison
    shows what the exchange is worth beyond adapters alone. Both streams share the adapters, as they
    share the base; in ViT-B, at the paper's ratio, these have as many weights as the six exchanges,
    biases apart. Convolutions, adapters and decoder are trained.

    Args:
        variant: as for `FrozenSam`.
        image_size: side of a slice, pixels, a multiple of the variant's stride.
        regions: regions that are segmented.
        ratio: channels inside an adapter, as a share of a token's; the paper's is a quarter.
        merge: `sum` of the two embeddings, or their `mean`.
        groups: modalities of the two streams.
        checkpointing: compute activations again in the backward pass instead of keeping them.

    Raises:
        InputError: as for `CrossModalitySam`; a ratio that leaves no channel, or is above 1.
    """

    def __init__(
        self,
        variant: str = "vit_b",
        image_size: int = 256,
        regions: int = 1,
        ratio: float = 0.25,
        merge: Merge = "sum",
        groups: Sequence[Sequence[str]] = GROUPS,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            variant,
            image_size,
            regions,
            first_blocks=0,
            merge=merge,
            groups=groups,
            checkpointing=checkpointing,
        )
        narrowest = min(self.encoder.widths)
        if not 1 / narrowest <= ratio <= 1:
            raise InputError(
                f"`ratio` is {ratio}: set it to a share of a token's channels that leaves at least "
                f"one of {narrowest}, such as 0.25."
            )
        # The hooks are bound methods, not functions: a copy of the network then has its own.
        self.bottlenecks = nn.ModuleList()
        for block, width in zip(self.encoder.attention_blocks, self.encoder.widths, strict=True):
            layers: Any = block
            behind, beside = (Bottleneck(width, int(ratio * width)) for _ in range(2))
            layers.attn.register_forward_hook(behind.behind)
            layers.mlp.register_forward_hook(beside.beside)
            self.bottlenecks += [behind, beside]
