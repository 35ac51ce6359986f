"""Data sets of the 2-D study: single slices to train on, whole patients to score."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.slices.augmentation import augment_slice, draw_slice
from datamodules.slices.slice_case import SliceCase
from datamodules.training.modality_dropout import blank_some
from datamodules.training.randomisation import Kind


class SliceDataset(Dataset[dict[str, Any]]):
    """Training slices; number `i` of epoch `e` is the item `e * n + i`.

    Each epoch goes through all slices in its own random order before any comes again.

    Args:
        slices: Cases with the index of a slice.
        slices_per_epoch: `n`; an epoch may be a part of the slices, or more than all.
        seed: Seed of all randomness, with the epoch and the number of the slice.
        augmentation: Whether slices are turned, mirrored and changed in intensity, or randomised
            on top of it.
        modality_dropout: Probability of each modality to be blanked in a slice.
    """

    def __init__(
        self,
        slices: Sequence[tuple[SliceCase, int]],
        slices_per_epoch: int,
        seed: int,
        augmentation: Kind,
        modality_dropout: float = 0.0,
    ) -> None:
        self.slices = list(slices)
        self.slices_per_epoch = slices_per_epoch
        self.seed = seed
        self.augmentation = augmentation
        self.modality_dropout = modality_dropout

    def __len__(self) -> int:
        return self.slices_per_epoch

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The slice: image (4, H, W) float16, label (H, W) uint8, case_id, slice_index and _key."""
        epoch, number = divmod(item, self.slices_per_epoch)
        turn, place = divmod(number, len(self.slices))
        case, index = self.slices[_order(self.seed, epoch, turn, len(self.slices))[place]]
        image = case.padded_images(index, index + 1)[0]
        label = case.padded_labels(index, index + 1)[0]
        if self.augmentation:
            rng = np.random.default_rng((self.seed, epoch, 0, number))
            across, along, _ = case.spacing
            edges = (case.slice_size * along, case.slice_size * across)
            numbers = draw_slice(rng, edges if self.augmentation == "randomised" else None)
            image, label = augment_slice(image, label, numbers)
        blank_some(image, case, self.modality_dropout, (self.seed, epoch, number))
        return {
            "image": image,
            "label": label,
            "case_id": case.case_id,
            "slice_index": torch.tensor(index),
            "slice_key": case.slice_key(index),
        }


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, turn: int, count: int) -> Any:
    return np.random.default_rng((seed, epoch, 1, turn)).permutation(count)


class SlicePatientDataset(Dataset[dict[str, Any]]):
    """Whole patients, all slices of one an item.

    Args:
        cases: Prepared patients.
        selected: Slices of each that the score of selected slices is taken over.
        whole: Whether the whole volume may be scored, no slice of it having been trained on.
    """

    def __init__(
        self, cases: Sequence[SliceCase], selected: Sequence[Sequence[int]], whole: bool
    ) -> None:
        self.cases = list(cases)
        self.selected = [list(indices) for indices in selected]
        self.whole = whole

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The patient: image (S, 4, H, W) float16, case_id, slice_key (S), case, spacing, whole.

        When labelled also label (S, H, W) uint8 and selected (S,), bool.
        """
        case = self.cases[item]
        batch: dict[str, Any] = {
            "image": case.padded_images(),
            "case_id": case.case_id,
            "slice_key": [case.slice_key(index) for index in range(case.slices)],
            "spacing": torch.tensor(case.spacing),
            "case": case,
            "whole": self.whole,
        }
        if case.labelled:
            batch["label"] = case.padded_labels()
            batch["selected"] = torch.zeros(case.slices, dtype=torch.bool)
            batch["selected"][self.selected[item]] = True
        return batch
