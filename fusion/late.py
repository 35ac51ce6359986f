"""Late fusion: the mean of the networks' probabilities, nothing to train."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from errors import InputError

Start = Literal["late", "zero"]

# Distance that probabilities keep from 0 and 1, where their float32 logit would be infinite.
CLAMP = 1e-6


class LateFusion(nn.Module):
    """Mean of the probability maps of any number of networks.

    The late fusion of Vo-Thanh et al., "3D Dual-Fusion Attention Network for Brain Tumor
    Segmentation". Returned as a logit, so that every head of this package means the same.

    Args:
        in_channels: feature channels of the networks; unused.
        out_channels: regions; unused, because the logits have them.
        size: unused; accepted because every network and head has a size.
    """

    def __init__(
        self, in_channels: Sequence[int] = (), out_channels: int = 3, size: str = "base"
    ) -> None:
        super().__init__()

    def forward(self, features: list[torch.Tensor], logits: list[torch.Tensor]) -> torch.Tensor:
        """Return the float32 logit of the mean probability, (B, R, D, H, W)."""
        # float32 whatever the precision: a bfloat16 probability near 1 has steps of 0.004.
        probability = torch.stack([torch.sigmoid(one.float()) for one in logits]).mean(dim=0)
        return torch.logit(probability, eps=CLAMP)


class FromLateFusion(nn.Module):
    """Start of a trained head: late fusion, which it then corrects, or zero.

    Args:
        head: name of the head, for errors.
        start: `late` adds the logit of late fusion to the head's, whose last layer begins at zero:
            before the first step the head is late fusion. `zero` leaves both out, which is the
            literal reading of Vo-Thanh et al., "3D Dual-Fusion Attention Network for Brain Tumor
            Segmentation": the head alone gives the logits.
        output_layer: the head's last convolution.

    Raises:
        InputError: another start.
    """

    def __init__(self, head: str, start: Start, output_layer: nn.Conv3d) -> None:
        super().__init__()
        if start not in ("late", "zero"):
            raise InputError(f"{head} has no start {start!r}: set `start` to late or zero.")
        self.late = LateFusion() if start == "late" else None
        if self.late is not None:
            nn.init.zeros_(output_layer.weight)
            if output_layer.bias is not None:
                nn.init.zeros_(output_layer.bias)

    def forward(self, fused: torch.Tensor, logits: list[torch.Tensor]) -> torch.Tensor:
        """Return the logits of a head (B, R, D, H, W), with late fusion's added where it starts.

        Args:
            fused: the head's own logits (B, R, D, H, W).
            logits: those of the networks, each (B, R, D, H, W).
        """
        return fused if self.late is None else fused.float() + self.late([], logits)
