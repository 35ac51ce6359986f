"""Losses that MONAI does not have."""

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from errors import InputError


class DiceBCELoss(nn.Module):
    """Soft Dice plus binary cross-entropy, each region by a sigmoid of its own.

    For regions that overlap, such as WT, TC and ET. MONAI's ``DiceCELoss`` has another
    cross-entropy for several regions: a softmax over them, as if they excluded one another, in
    which voxels outside all regions count nothing. For one region the two losses are equal.

    Args:
        squared_pred: square prediction and reference in Dice's denominator.
        batch: sum over the batch before Dice is taken, instead of one Dice a patch.
        bce_weight: weight of the cross-entropy, the mean over all voxels and regions.

    Raises:
        InputError: when the weight is negative.
    """

    def __init__(
        self, squared_pred: bool = False, batch: bool = False, bce_weight: float = 1.0
    ) -> None:
        super().__init__()
        if not bce_weight >= 0:
            raise InputError(f"model.loss.bce_weight is {bce_weight}: expected 0 or more.")
        self.dice = DiceLoss(sigmoid=True, squared_pred=squared_pred, batch=batch)
        self.cross_entropy = nn.BCEWithLogitsLoss()
        self.bce_weight = bce_weight

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of logits and masks, both (B, R, *spatial)."""
        loss: Tensor = self.dice(logits, mask)
        return loss + self.bce_weight * self.cross_entropy(logits, mask)


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
