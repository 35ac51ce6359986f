"""Mean Dice over patients during training, each counted once over all processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from datamodules.layouts.conventions import REGIONS
from evaluation.metrics.empty_rules import BRATS, EmptyRule
from evaluation.metrics.means import nan_mean
from evaluation.metrics.overlap import dice

# A case id is a file or folder name, and file systems end those at 255 bytes.
ID_BYTES = 256


class RegionDice(Metric):
    """Mean Dice of every region over patients, each counted once over all processes.

    A distributed sampler repeats patients until every process has the same number, and a mean over
    its samples would select another checkpoint. So the state keeps a row a patient, the bytes of
    the id and the scores, flat, in one list: it is gathered at once, also from a process without
    patients.

    Args:
        regions: names of the R regions.
        rule: decides when a region is empty.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(
        self, regions: Sequence[str] = REGIONS, rule: EmptyRule = BRATS, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.regions = tuple(regions)
        self.rule = rule
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, reference: Tensor, case_id: Sequence[str]) -> None:
        """Score a batch of whole patients.

        Args:
            prediction: (B, R, *S), bool.
            reference: (B, R, *S), bool.
            case_id: the B ids.

        Raises:
            ValueError: if shapes differ, there are not R regions, or an id is too long.
        """
        for name, ours, theirs in zip(case_id, prediction, reference, strict=True):
            pairs = zip(self.regions, ours, theirs, strict=True)
            self._keep(name, [dice(mask, target, self.rule) for _, mask, target in pairs])

    def _keep(self, case_id: str, scores: Sequence[float]) -> None:
        code = case_id.encode()
        if len(code) > ID_BYTES:
            raise ValueError(f"case id of {len(code)} bytes, at most {ID_BYTES}: {case_id}")
        row = [*code.ljust(ID_BYTES, b"\0"), *scores]
        self.rows.append(torch.tensor(row, dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, float]:
        """Return the mean Dice of every region and, as ``mean``, the mean over the regions."""
        cases = self._cases()
        if not cases:
            return dict.fromkeys((*self.regions, "mean"), float("nan"))
        means = {
            region: nan_mean([scores[region] for scores in cases.values()])
            for region in self.regions
        }
        return {**means, "mean": nan_mean(list(means.values()))}

    def per_case(self) -> dict[str, dict[str, float]]:
        """Return the Dice per region of every patient of all processes, in the order of their ids.

        Every process has to call it.
        """
        if self._is_synced:
            return self._cases()
        with self.sync_context(should_sync=self._to_sync, dist_sync_fn=self.dist_sync_fn):
            return self._cases()

    def _cases(self) -> dict[str, dict[str, float]]:
        if not isinstance(self.rows, Tensor) and not self.rows:
            return {}
        table = dim_zero_cat(self.rows).reshape(-1, ID_BYTES + len(self.regions)).cpu().numpy()
        scores = {
            row[:ID_BYTES].astype(np.uint8).tobytes().rstrip(b"\0").decode(): row[ID_BYTES:]
            for row in table
        }
        return {
            name: dict(zip(self.regions, scores[name].tolist(), strict=True))
            for name in sorted(scores)
        }


class SliceDice(RegionDice):
    """Mean Dice of every region over patients, where each patient's is the mean over its slices.

    Args:
        regions: names of the R regions.
        rule: decides when a region is empty in a slice.
    """

    def update(  # type: ignore[override]
        self, prediction: Tensor, reference: Tensor, case_id: str
    ) -> None:
        """Score one patient.

        Args:
            prediction: (N, R, H, W), bool, its slices.
            reference: (N, R, H, W), bool.
            case_id: its id.

        Raises:
            ValueError: if shapes differ, there is no slice or not R regions, or the id is too long.
        """
        if not len(prediction):
            raise ValueError(f"{case_id} has no slice to be scored")
        slices = [
            [dice(mask, target, self.rule) for mask, target in zip(ours, theirs, strict=True)]
            for ours, theirs in zip(prediction, reference, strict=True)
        ]
        means = [nan_mean(scores) for scores in zip(*slices, strict=True)]
        if len(means) != len(self.regions):
            raise ValueError(f"{len(means)} masks for the regions {', '.join(self.regions)}")
        self._keep(case_id, means)
