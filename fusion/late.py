"""Late fusion: the mean of the networks' probabilities, nothing to train."""

from collections.abc import Sequence

import torch
from torch import nn

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
