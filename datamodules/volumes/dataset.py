"""Data sets of the 3D study: patches to train on, whole volumes to score."""

import math
from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from datamodules.batches import region_masks
from datamodules.cases.case import PreparedCase
from datamodules.cases.intensity import BACKGROUND
from datamodules.cases.patch_centres import draw_centre, patch_start
from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import REGIONS
from datamodules.training.modality_dropout import blank_some
from datamodules.volumes.augmentation import VolumeKind, augmented_patch, draw, plain_patch
from datamodules.volumes.nnunet_augmentation import draw_nnunet, nnunet_patch


class PatchDataset(Dataset[dict[str, Any]]):
    """Random training patches; number `i` of epoch `e` is the item `e * n + i`.

    Each epoch goes through the cases in its own random order before any comes again. With phantoms,
    the items of both are interleaved: of the first k items over all epochs, floor(k * share) are
    phantoms; either kind is gone through in random order before one of it comes again.

    Args:
        cases: Labelled cases; with phantoms the real ones, none where `share` is 1.
        patch_size: Voxels (d, h, w).
        patches_per_epoch: `n`.
        seed: Seed of all randomness, with the epoch and the number of the patch.
        augmentation: Whether patches are turned, mirrored and changed in intensity, `randomised`
            on top of it, or `nnunet`: changed as nnU-Net does instead.
        modality_dropout: Probability of each modality to be blanked in a patch.
        healthy_share: Share of patches centred on tumour-free brain; None: a quarter.
        phantoms: Labelled phantoms to mix in.
        share: Share of the patches that are of phantoms, 0 to 1.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch_size: Sequence[int],
        patches_per_epoch: int,
        seed: int,
        augmentation: VolumeKind,
        modality_dropout: float = 0.0,
        healthy_share: float | None = None,
        phantoms: Sequence[PreparedCase] = (),
        share: float = 0.0,
    ) -> None:
        self.cases = list(cases)
        self.phantoms = list(phantoms)
        self.share = Fraction(str(share))  # of decimals: 0.29 of 100 is 29
        self.patch_size = tuple(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.seed = seed
        self.augmentation = augmentation
        self.healthy_share = healthy_share
        self.modality_dropout = modality_dropout

    def __len__(self) -> int:
        return self.patches_per_epoch

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The patch: image (4, *patch) float16, label (*patch) uint8, case_id, spacing (3,)."""
        case, label, start, rng = self._drawn(item)
        if self.augmentation == "nnunet":
            image, labels = nnunet_patch(
                case.image, label, start, self.patch_size, draw_nnunet(rng)
            )
        elif self.augmentation:
            edges = [n * edge for n, edge in zip(self.patch_size, case.spacing, strict=True)]
            numbers = draw(rng, tuple(edges) if self.augmentation == "randomised" else None)
            image, labels = augmented_patch(case.image, label, start, self.patch_size, numbers)
        else:
            image, labels = plain_patch(case.image, label, start, self.patch_size)
        # The shift of intensities would fill the brain of a dropped modality with a constant.
        for modality in case.dropped:
            image[MODALITIES.index(modality)] = BACKGROUND
        key = (self.seed, *divmod(item, self.patches_per_epoch))
        blank_some(image, case, self.modality_dropout, key)
        return {
            "image": image,
            "label": labels,
            "case_id": case.case_id,
            "spacing": torch.tensor(case.spacing),
        }

    def _drawn(
        self, item: int
    ) -> tuple[PreparedCase, npt.NDArray[np.uint8], tuple[int, ...], np.random.Generator]:
        """Return a patch's case, its label, the first voxel, and the generator of what follows."""
        epoch, index = divmod(item, self.patches_per_epoch)
        case = self.case_of(item)
        rng = np.random.default_rng((self.seed, epoch, 0, index))
        centre = draw_centre(case.samples, rng, self.healthy_share)
        label = case.label
        assert label is not None  # the data module passes labelled cases only
        return case, label, patch_start(centre, self.patch_size, case.shape), rng

    def prevalence(self) -> list[float]:
        """Share of WT, TC and ET in the voxels of the first epoch's patches, before augmentation.

        Each between 0 and 1 also where a region is in no patch: (voxels + 1) / (all voxels + 2),
        Laplace's rule of succession.
        """
        counts = torch.zeros(len(REGIONS), dtype=torch.float64)
        for item in range(len(self)):
            _, label, start, _ = self._drawn(item)
            window = tuple(
                slice(max(s, 0), s + n) for s, n in zip(start, self.patch_size, strict=True)
            )
            inside = torch.from_numpy(np.ascontiguousarray(label[window]))
            counts += region_masks(inside, REGIONS).sum(dim=(1, 2, 3), dtype=torch.float64)
        voxels = len(self) * math.prod(self.patch_size)
        return [float(share) for share in (counts + 1) / (voxels + 2)]

    def case_of(self, item: int) -> PreparedCase:
        """Return the case that an item is a patch of."""
        epoch, index = divmod(item, self.patches_per_epoch)
        if not self.phantoms:
            return _in_turn(self.cases, index, (self.seed, epoch, 1))
        before = floor(item * self.share)  # phantoms among the earlier items
        if floor((item + 1) * self.share) > before:
            return _in_turn(self.phantoms, before, (self.seed, 0, 3))
        return _in_turn(self.cases, item - before, (self.seed, 0, 2))


def _in_turn(cases: Sequence[PreparedCase], number: int, key: tuple[int, ...]) -> PreparedCase:
    """Return the case of a number: turn after turn through all cases, each in a random order."""
    turn, place = divmod(number, len(cases))
    return cases[np.random.default_rng((*key, turn)).permutation(len(cases))[place]]


class VolumeDataset(Dataset[dict[str, Any]]):
    """Whole prepared cases, one an item."""

    def __init__(self, cases: Sequence[PreparedCase]) -> None:
        self.cases = list(cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: int) -> dict[str, Any]:
        """The case: image (4, d, h, w) float16, case_id, spacing, case.

        When labelled also label (d, h, w) uint8.
        """
        case = self.cases[item]
        batch = {
            "image": torch.from_numpy(np.array(case.image)),
            "case_id": case.case_id,
            "spacing": torch.tensor(case.spacing),
            "case": case,
        }
        if case.label is not None:
            batch["label"] = torch.from_numpy(np.array(case.label))
        return batch
