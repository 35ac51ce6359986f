"""Ensemble of trained models: the mean of their region probabilities."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.metrics.scores import RegionDice, SliceDice
from lightning_modules.contracts.settings import UseSettings
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.slice_segmentation import SliceModule


class EnsembleModule(SegmentationModule):
    """Average the probabilities of trained models; each keeps its own patch size and windows.

    Args:
        members: the models; their data must have been prepared alike.
    """

    def __init__(self, members: Sequence[SegmentationModule]) -> None:
        first = members[0]
        self.regions = first.regions
        self.convention = first.convention
        self.per_slice = first.per_slice
        super().__init__(loss=nn.Identity(), overlap=first.overlap)
        self.members = nn.ModuleList(members)  # registers them, so that they move to the device
        self.models = list(members)
        self.dice: RegionDice = copy.deepcopy(first.dice)
        self.configure_for_use(first.usage)

    def configure_for_use(self, settings: UseSettings) -> None:
        """Apply every member in the same way; rules act on the mean of their probabilities."""
        super().configure_for_use(settings)
        for member in self.models:
            member.configure_for_use(settings)

    def probabilities(self, image: Tensor) -> Tensor:
        """Return mean region probabilities (B, R, *spatial) of whole volumes (B, M, *spatial)."""
        return torch.stack([member.probabilities(image) for member in self.models]).mean(dim=0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one patient, slice by slice where the members do."""
        first = self.models[0]
        if isinstance(first, SliceModule) and isinstance(self.dice, SliceDice):
            probabilities = self.probabilities(batch["image"])[0]
            return first.score_slices(batch, probabilities, self.dice)
        return super().validation_step(batch, batch_idx)

    def remarks(self) -> list[str]:
        """Return the remarks of all members."""
        return list(dict.fromkeys(text for member in self.models for text in member.remarks()))

    def score(self, result: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Score one patient as the members do."""
        return self.models[0].score(result, batch)
