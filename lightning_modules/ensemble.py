"""Several trained models that segment together: the mean of their region probabilities."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.segmentation import SegmentationModule
from lightning_modules.slice_segmentation import SliceModule


class EnsembleModule(SegmentationModule):
    """Average the probabilities of trained models; each keeps its own patch size and windows.

    Args:
        members: the models; their data must have been prepared alike.
    """

    def __init__(self, members: Sequence[SegmentationModule]) -> None:
        self.regions = members[0].regions
        self.per_slice = members[0].per_slice
        super().__init__(
            loss=nn.Identity(),
            overlap=members[0].overlap,
            postprocessing=members[0].postprocessing,
        )
        self.empty_rule = members[0].empty_rule
        self.members = nn.ModuleList(members)  # registers them, so that they move to the device
        self.models = list(members)
        self.dice: Any = copy.deepcopy(members[0].dice)

    def probabilities(self, image: Tensor) -> Tensor:
        """Return mean region probabilities (B, R, *spatial) of whole volumes (B, M, *spatial)."""
        outputs = []
        for member in self.models:
            member.tta = self.tta
            outputs.append(member.probabilities(image))
        return torch.stack(outputs).mean(dim=0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one patient, slice by slice where the members do."""
        first = self.models[0]
        if not isinstance(first, SliceModule):
            return super().validation_step(batch, batch_idx)
        probabilities = self.probabilities(batch["image"])[0]
        return first.score_slices(batch, probabilities, self.dice)

    def remarks(self) -> list[str]:
        """Return what has to be known about any member."""
        return list(dict.fromkeys(text for member in self.models for text in member.remarks()))

    def assemble(self, batch: dict[str, Any], probabilities: Tensor) -> dict[str, Any]:
        """Bring one patient to his original grid as the members do."""
        return self.models[0].assemble(batch, probabilities)

    def label_map(self, case: Any, regions: np.ndarray) -> np.ndarray:
        """Compose label maps as the members do."""
        return self.models[0].label_map(case, regions)

    def score(self, result: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Score one patient as the members do."""
        self.models[0].empty_rule = self.empty_rule
        return self.models[0].score(result, batch)
