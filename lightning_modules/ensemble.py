"""Several trained models that segment together: the mean of their region probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.segmentation import SegmentationModule


class EnsembleModule(SegmentationModule):
    """Average the probabilities of trained models; each keeps its own patch size and windows.

    Args:
        members: the models; their data must have been prepared alike.
    """

    def __init__(self, members: Sequence[SegmentationModule]) -> None:
        super().__init__(loss=nn.Identity(), overlap=members[0].overlap)
        self.members = nn.ModuleList(members)  # registers them, so that they move to the device
        self.models = list(members)

    def probabilities(self, image: Tensor) -> Tensor:
        """Return mean region probabilities (B, R, *spatial) of whole volumes (B, M, *spatial)."""
        outputs = []
        for member in self.models:
            member.tta = self.tta
            outputs.append(member.probabilities(image))
        return torch.stack(outputs).mean(dim=0)
