"""The order of training samples over processes, and how samples become a batch."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler


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
