"""Loader processes: their number, the order of samples over them, and samples as a batch."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from errors import InputError
from files import cores_each

SHARED_MEMORY = Path("/dev/shm")  # through which batches come from loader processes on Linux
PREFETCHED = 2  # batches that each loader process holds ready, PyTorch's own number
OTHERS = 2  # cores left to a training and its other threads


def count_processes(wanted: int | None, devices: int, batch_bytes: int) -> tuple[int, str]:
    """Return the number of loader processes of a device, and a notice if memory lowers it.

    Args:
        wanted: The number that was asked for; None: by the cores.
        devices: Devices on this machine, each with loader processes of its own.
        batch_bytes: Size of one batch of every loader of a device.

    Raises:
        InputError: Shared memory is too small for the number that was asked for.
    """
    number = max(0, cores_each(devices) - OTHERS) if wanted is None else wanted
    if number == 0 or not SHARED_MEMORY.is_dir():
        return number, ""
    free, each = shutil.disk_usage(SHARED_MEMORY).free, devices * PREFETCHED * batch_bytes
    most = free // each
    if number <= most:
        return number, ""
    found = f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free of the {number * each / 1e6:.0f} MB that"
    more = f"make it larger (docker run --shm-size {-(-number * each // 2**30) + 1}g)"
    if wanted is None:
        return most, f"{found} {number} loader processes need: {most} are used; for more {more}"
    raise InputError(
        f"data.num_workers is {wanted}, but {found} these loader processes need: give "
        f"--data.num_workers {most}, or {more}."
    )


class GlobalOrderSampler(DistributedSampler[int]):
    """Numbers `epoch * n + i`, rank r taking every world-th: one global order for any world size.

    It is a `DistributedSampler` because Lightning does not replace those.

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
