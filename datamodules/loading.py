"""Data sets and samplers: which patch or volume comes when, the same for any number of workers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from datamodules import memory
from datamodules.intensity import BACKGROUND
from datamodules.layouts import CANONICAL, MODALITIES
from datamodules.prepared import PreparedCase
from datamodules.sampling import draw_centre, patch_start
from datamodules.transforms import augmented_patch, draw, plain_patch


class PatchDataset(Dataset[dict[str, Any]]):
    """Random training patches; number `i` of epoch `e` is the item `e * n + i`.

    Each epoch goes through the cases in its own random order before any comes again.

    Args:
        cases: Labelled cases.
        patch_size: Voxels (d, h, w).
        patches_per_epoch: `n`.
        seed: Of all randomness, with the epoch and the number of the patch.
        augmentation: Whether patches are turned, mirrored and changed in intensity.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch_size: Sequence[int],
        patches_per_epoch: int,
        seed: int,
        augmentation: bool,
    ) -> None:
        self.cases = list(cases)
        self.patch_size = tuple(patch_size)
        self.patches_per_epoch = patches_per_epoch
        self.seed = seed
        self.augmentation = augmentation

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
        assert label is not None  # the data module gives labelled cases only
        if self.augmentation:
            image, labels = augmented_patch(case.image, label, start, self.patch_size, draw(rng))
        else:
            image, labels = plain_patch(case.image, label, start, self.patch_size)
        for (
            modality
        ) in case.dropped:  # the shift of intensities would fill the brain with a constant
            image[MODALITIES.index(modality)] = BACKGROUND
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


class GlobalOrderSampler(DistributedSampler[int]):
    """Numbers `epoch * n + i`, rank r taking every world-th: one global order for any world size.

    A `DistributedSampler` because Lightning leaves those as they are.

    Args:
        dataset: Its length is n, a multiple of the global batch.
        world: Number of ranks.
        rank: This rank.
    """

    def __init__(self, dataset: Dataset[Any], world: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(self.dataset)  # type: ignore[arg-type]
        return iter(
            range(
                first + self.rank, first + self.num_samples * self.num_replicas, self.num_replicas
            )
        )


def region_masks(label: torch.Tensor) -> torch.Tensor:
    """Regions WT, TC, ET of a canonical label map: uint8 (d, h, w) to float32 (3, d, h, w)."""
    mask = torch.from_numpy(memory.empty((3, *label.shape), np.float32))
    mask[0] = label != 0
    mask[1] = (label != 0) & (label != CANONICAL.oedema)
    mask[2] = label == CANONICAL.enhancing
    return mask


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors, list the rest; one sample is viewed as a batch, not copied."""
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if not isinstance(values[0], torch.Tensor):
            batch[key] = values
        else:
            batch[key] = values[0][None] if len(values) == 1 else default_collate(values)
    return batch
