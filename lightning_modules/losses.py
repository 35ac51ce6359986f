"""Losses that MONAI does not have."""

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn


class ClassDiceLoss(nn.Module):
    """Mean soft Dice over necrosis, oedema and enhancing tumour, from logits of WT, TC and ET.

    For networks whose regions are sums of classes: the classes are differences of regions, both in
    prediction and reference. Background is left out and the denominator squared, as in the second
    stage of Zhang et al. 2021 (from the authors' code).
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(squared_pred=True)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of region logits and masks, both (B, 3, *spatial)."""
        loss: Tensor = self.dice(classes_of(torch.sigmoid(logits)), classes_of(mask))
        return loss


def classes_of(regions: Tensor) -> Tensor:
    """Return necrosis, oedema, enhancing (B, 3, *S) of nested WT, TC, ET (B, 3, *S).

    Args:
        regions: probabilities or masks; negative differences, where a core lies outside its
            tumour, become 0.
    """
    whole, core, enhancing = regions.unbind(dim=1)
    return torch.stack([core - enhancing, whole - core, enhancing], dim=1).clamp(min=0)
