"""Data sets of the 3D study: patches to train on, whole volumes to score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules import huge_pages
from datamodules.cases.case import PreparedCase
from datamodules.cases.intensity import BACKGROUND
from datamodules.cases.patch_centres import draw_centre, patch_start
from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import CANONICAL
from datamodules.modality_dropout import blank_some
from datamodules.randomisation import Kind
from datamodules.volumes.augmentation import augmented_patch, draw, plain_patch


class PatchDataset(Dataset[dict[str, Any]]):
    """Random training patches; number `i` of epoch `e` is the item `e * n + i`.

    Each epoch goes through the cases in its own random order before any comes again.

    Args:
        cases: Labelled cases.
        patch_size: Voxels (d, h, w).
        patches_per_epoch: `n`.
        seed: Seed of all randomness, with the epoch and the number of the patch.
        augmentation: Whether patches are turned, mirrored and changed in intensity, or randomised
            on top of it.
        modality_dropout: Probability of each modality to be blanked in a patch.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch_size: Sequence[int],
        patches_per_epoch: int,
        seed: int,
        augmentation: Kind,
        modality_dropout: float = 0.0,
    ) -> None:
        self.cases = list(cases)
        self.patch_size = tuple(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.seed = seed
        self.augmentation = augmentation
        self.modality_dropout = modality_dropout

    def __len__(self) -> int:
        return self.patches_per_epoch

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The patch: image (4, *patch), mask (3, *patch), case_id, spacing (3,)."""
        epoch, index = divmod(item, self.patches_per_epoch)
        turn, place = divmod(index, len(self.cases))
        order = np.random.default_rng((self.seed, epoch, 1, turn)).permutation(len(self.cases))
        case = self.cases[order[place]]
        rng = np.random.default_rng((self.seed, epoch, 0, index))
        start = patch_start(draw_centre(case.samples, rng), self.patch_size, case.shape)
        label = case.label
        assert label is not None  # the data module passes labelled cases only
        if self.augmentation:
            edges = [n * edge for n, edge in zip(self.patch_size, case.spacing, strict=True)]
            numbers = draw(rng, tuple(edges) if self.augmentation == "randomised" else None)
            image, labels = augmented_patch(case.image, label, start, self.patch_size, numbers)
        else:
            image, labels = plain_patch(case.image, label, start, self.patch_size)
        # The shift of intensities would fill the brain of a dropped modality with a constant.
        for modality in case.dropped:
            image[MODALITIES.index(modality)] = BACKGROUND
        blank_some(image, case, self.modality_dropout, (self.seed, epoch, index))
        return {
            "image": image,
            "mask": region_masks(labels),
            "case_id": case.case_id,
            "spacing": torch.tensor(case.spacing),
        }


class VolumeDataset(Dataset[dict[str, Any]]):
    """Whole prepared cases, one an item."""

    def __init__(self, cases: Sequence[PreparedCase]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The case: image (4, d, h, w), mask (3, d, h, w) when labelled, case_id, spacing, case."""
        case = self.cases[item]
        batch = {
            "image": torch.from_numpy(np.array(case.image)).float(),
            "case_id": case.case_id,
            "spacing": torch.tensor(case.spacing),
            "case": case,
        }
        if case.labelled:
            batch["mask"] = torch.from_numpy(case.mask())
        return batch


def region_masks(label: torch.Tensor) -> torch.Tensor:
    """Regions WT, TC, ET of a canonical label map: uint8 (d, h, w) to float32 (3, d, h, w)."""
    mask = torch.from_numpy(huge_pages.empty((3, *label.shape), np.float32))
    mask[0] = label != 0
    mask[1] = (label != 0) & (label != CANONICAL.oedema)
    mask[2] = label == CANONICAL.enhancing
    return mask
