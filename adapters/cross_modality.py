"""The cross-modality adapter: two streams of modalities through one frozen SAM."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adapters.frozen_sam import FrozenSam, channels_of, grey_colours
from errors import InputError

Init = Literal["zero", "default"]
Merge = Literal["sum", "mean"]
GROUPS = (("t1", "t1ce"), ("t2", "flair"))


class CrossModalityAdapter(nn.Module):
    """An adapter that adds a joint term to two streams: C = f(concat(F1, F2)), X = F + C.

    Shi et al., "Cross-modality Attention Adapter: A Glioma Segmentation Fine-tuning Method for SAM
    Using Multimodal Brain MR Images" (https://arxiv.org/abs/2307.01124). f is a 1x1 convolution
    from 2c to c channels, which on tokens is a linear layer.

    Args:
        channels: channels of a token, c.
        init: `zero`, with which the streams start unchanged, or `default`, PyTorch's.

    Raises:
        InputError: unknown init.
    """

    def __init__(self, channels: int, init: Init = "zero") -> None:
        super().__init__()
        if init not in ("zero", "default"):
            raise InputError(f"An adapter has no init {init!r}: set `init` to zero or default.")
        self.fuse = nn.Linear(2 * channels, channels)
        if init == "zero":
            nn.init.zeros_(self.fuse.weight)
            nn.init.zeros_(self.fuse.bias)

    def forward(
        self, first: torch.Tensor, second: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both streams (B, h, w, c) with the joint term added."""
        common = self.fuse(torch.cat([first, second], dim=-1))
        return first + common, second + common


class CrossModalitySam(FrozenSam):
    """A frozen SAM with cross-modality adapters (Shi et al., https://arxiv.org/abs/2307.01124).

    Two groups of modalities, each brought to three colours by a 1x1 convolution, pass through the
    encoder as one batch twice as long; after each of the first attention blocks an adapter of the
    block's width adds a joint term to both. Their embeddings are merged and decoded. Convolutions,
    adapters and decoder are trained.

    Args:
        variant: as for `FrozenSam`.
        image_size: side of a slice, pixels, a multiple of the variant's stride.
        regions: regions that are segmented.
        first_blocks: attention blocks that an adapter follows, from the first on; 0 to all of them
            (10 of `mobile_sam` and `lite_medsam`, 12 of `vit_b`).
        init: `zero`, with which training starts at the frozen model, or `default`, PyTorch's.
        merge: `sum` of the two embeddings, as in the paper, or their `mean`.
        groups: modalities of the two streams.
        checkpointing: compute activations again in the backward pass instead of keeping them:
            less memory, a third more time. For a frozen encoder.

    Raises:
        InputError: unknown variant, init, merge or modality; a size that the variant cannot take;
            too many blocks; other than two groups, an empty one, or a modality named twice;
            `checkpointing` of an encoder that is trained.
    """

    def __init__(
        self,
        variant: str = "vit_b",
        image_size: int = 256,
        regions: int = 1,
        first_blocks: int = 6,
        init: Init = "zero",
        merge: Merge = "sum",
        groups: Sequence[Sequence[str]] = GROUPS,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(variant, image_size, regions)
        _check(variant, len(self.encoder.widths), first_blocks, merge, groups)
        if checkpointing and "encoder" not in self.frozen_parts:
            raise InputError(
                "`checkpointing` is true, but this encoder is trained, and its batch norms would "
                "count every batch twice: leave it out."
            )
        self.first_blocks = first_blocks
        self.merge = merge
        self.checkpointing = checkpointing
        self.channels = [channels_of(list(group)) for group in groups]
        self.colours = nn.ModuleList(grey_colours(len(channels)) for channels in self.channels)
        self.adapters = nn.ModuleList(
            CrossModalityAdapter(width, init) for width in self.encoder.widths[:first_blocks]
        )

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return the merged embedding (B, 256, h, w) of four modalities (B, 4, S, S)."""
        image = self.prepare(image)
        streams = [
            colour(image[:, channels])
            for colour, channels in zip(self.colours, self.channels, strict=True)
        ]
        encoder = self.encoder
        tokens = encoder.embed(self.paint(torch.cat(streams)))  # (2B, h, w, c)
        for index in range(len(encoder.widths)):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(encoder.step, index, tokens, use_reentrant=False)
            else:
                tokens = encoder.step(index, tokens)
            if index < self.first_blocks:
                tokens = torch.cat(self.adapters[index](*tokens.chunk(2)))
        first, second = encoder.finish(tokens).chunk(2)
        merged = first + second
        return merged if self.merge == "sum" else merged / 2


def _check(
    variant: str, depth: int, first_blocks: int, merge: str, groups: Sequence[Sequence[str]]
) -> None:
    """Check `first_blocks`, `merge` and `groups`."""
    if not 0 <= first_blocks <= depth:
        raise InputError(
            f"`first_blocks` is {first_blocks} but {variant} has {depth} attention blocks: set it "
            f"to a number from 0 to {depth}."
        )
    if merge not in ("sum", "mean"):
        raise InputError(f"Embeddings cannot be merged by {merge!r}: set `merge` to sum or mean.")
    if len(groups) != 2 or not all(groups):
        raise InputError(
            f"The cross-modality adapter joins two groups of modalities and got "
            f"{[list(group) for group in groups]}: set `groups` to two lists with names in both."
        )
    names = [name for group in groups for name in group]
    channels_of(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"The modality {twice[0]!r} stands twice in `groups`: name every modality once."
        )
