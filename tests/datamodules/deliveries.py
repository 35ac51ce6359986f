"""Batches as a network gets them: what Lightning does with those of a loader."""

from collections.abc import Iterable
from typing import Any

from datamodules.base import CohortData


def delivered(data: CohortData, loader: Iterable[Any]) -> list[Any]:
    """Return the batches of a loader after their transfer to the device."""
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]
