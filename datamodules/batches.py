"""Batches on their way from the loader processes to the device.

An image crosses in the float16 of the prepared case and a label map as uint8: a patch of 128^3 is
19 MB, and 59 MB as float32 with three float masks. Both become what a network reads on the device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import CANONICAL, REGIONS
from datamodules.loading import GlobalOrderSampler, collate, count_processes
from errors import InputError

BYTES_A_VOXEL = 2 * len(MODALITIES) + 1


class BatchDataModule(LightningDataModule, ABC):
    """A data module whose processes load batches, and that completes them on the device.

    Args:
        batch_size: Items a step over all devices together.
        num_workers: Loader processes of each device; None: by the cores and by shared memory.

    Attributes:
        notices: Remarks about the data for the user.
    """

    regions: Sequence[str] = REGIONS  # of the masks

    def __init__(self, batch_size: int, num_workers: int | None) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.notices: list[str] = []
        self._processes: dict[tuple[int, int], int] = {}  # of each device, as decided

    @property
    @abstractmethod
    def patch_size(self) -> Sequence[int]:
        """Voxels, or pixels, of a training patch along every axis."""

    @abstractmethod
    def largest_volume(self) -> int:
        """Voxels of the largest patient, as a network reads it."""

    def ranks(self) -> tuple[int, int]:
        """(world size, rank) of the trainer, or of one process without it."""
        if self.trainer is None:
            return 1, 0
        return int(self.trainer.world_size), int(self.trainer.global_rank)

    def _share(self) -> int:
        """Items of the global batch that fall on each device."""
        world, _ = self.ranks()
        share, left = divmod(self.batch_size, world)
        if left:
            raise InputError(
                f"data.batch_size is {self.batch_size} and cannot be shared by {world} devices: "
                f"set it to a multiple of {world}."
            )
        return share

    def _one_by_one(self, dataset: Any) -> DataLoader[dict[str, Any]]:
        """Every item of a data set in its order, a batch each, shared by the devices."""
        world, rank = self.ranks()
        # Pads so that all ranks take part equally often; metrics aggregate by case id.
        sampler: DistributedSampler[Any] = DistributedSampler(dataset, world, rank, shuffle=False)
        return self._loader(dataset, sampler, 1)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Give a batch on the device the float32 image and the masks that a network reads."""
        complete = on_device(batch, self.regions, len(self.patch_size))
        if self.trainer is None:
            return complete
        converted: dict[str, Any] = self.trainer.precision_plugin.convert_input(complete)
        return converted

    def loader_processes(self, devices: int, world: int) -> int:
        """Return the number of loader processes of each device; if memory lowers it, note that.

        Args:
            devices: Devices on this machine.
            world: Devices of all machines.

        Raises:
            InputError: Shared memory is too small for `num_workers`.
        """
        if (devices, world) not in self._processes:
            voxels = self.largest_volume()
            if self._fitting():
                voxels += -(-self.batch_size // world) * math.prod(self.patch_size)
            number, notice = count_processes(self.num_workers, devices, voxels * BYTES_A_VOXEL)
            self._processes[devices, world] = number
            if notice:
                self._note(notice)
        return self._processes[devices, world]

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _fitting(self) -> bool:
        """Whether the data is for a training; without a trainer it is."""
        state = getattr(self.trainer, "state", None)
        return getattr(state, "fn", None) in (None, "fit")

    def _global_order(self, dataset: Any) -> GlobalOrderSampler:
        """Sampler of training items in one order over all devices, from the next epoch on."""
        sampler = GlobalOrderSampler(dataset, *self.ranks())
        if self.trainer is not None:
            # In a resumed training, workers fetch their first items before Lightning sets the
            # epoch.
            done: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(done.processed)
        return sampler

    def _loader(
        self, dataset: Any, sampler: "DistributedSampler[Any]", batch_size: int
    ) -> DataLoader[dict[str, Any]]:
        trainer = self.trainer
        devices = 1 if trainer is None else trainer.num_devices
        workers = self.loader_processes(devices, self.ranks()[0])
        if self.num_workers is None:  # none that would have nothing to do
            workers = min(workers, -(-len(sampler) // batch_size))
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            persistent_workers=workers > 0,
        )


def on_device(batch: dict[str, Any], regions: Sequence[str], axes: int) -> dict[str, Any]:
    """Return a batch with a float32 `image`, and `mask` where it came with a `label`.

    Args:
        batch: `image` float16 (B, M, *S), `label` uint8 (B, *S), and anything else, which stays.
        regions: The first of WT, TC and ET, as channels of the mask (B, R, *S).
        axes: Number of axes of S.
    """
    kept = {name: value for name, value in batch.items() if name != "label"}
    kept["image"] = batch["image"].float()
    if "label" in batch:
        kept["mask"] = region_masks(batch["label"], regions, axes)
    return kept


def region_masks(label: torch.Tensor, regions: Sequence[str], axes: int = 3) -> torch.Tensor:
    """Regions of canonical label maps: uint8 (..., *S) to float32 (..., R, *S), 0 or 1.

    Args:
        label: The label maps.
        regions: The first of WT, TC and ET.
        axes: Number of axes of S.
    """
    ((oedema,), (enhancing,)) = (CANONICAL.of(kind) for kind in ("oedema", "enhancing"))
    tumour = label.ne(0)
    masks = [tumour, tumour & label.ne(oedema), label.eq(enhancing)]
    return torch.stack(masks[: len(regions)], dim=-axes - 1).float()
