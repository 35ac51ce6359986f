"""What the numbers mean: Dice and HD95 of a region, the rule for empty regions, their sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from datamodules.layouts import REGIONS

# A case id is a file or folder name, and file systems end those at 255 bytes.
ID_BYTES = 256


@dataclass(frozen=True)
class EmptyRule:
    """What a region scores when prediction, reference or both hold none of it.

    Args:
        name: how tables and manifests call the rule.
        dice_both: Dice when both are empty.
        dice_one: Dice when exactly one is empty.
        hd95_both: HD95 in mm when both are empty.
        hd95_one: HD95 in mm when exactly one is empty.
    """

    name: str
    dice_both: float
    dice_one: float
    hd95_both: float
    hd95_one: float

    def __str__(self) -> str:
        """Return the rule as a sentence for tables."""
        return (
            f"empty in both: Dice {self.dice_both:g}, HD95 {self.hd95_both:g} mm; "
            f"in one: Dice {self.dice_one:g}, HD95 {self.hd95_one:g} mm (rule {self.name})"
        )


# The challenge's own rule; 373.13 mm is the diagonal of its 240 x 240 x 155 mm volumes.
BRATS = EmptyRule("brats", dice_both=1.0, dice_one=0.0, hd95_both=0.0, hd95_one=373.13)
EMPTY_RULES: Mapping[str, EmptyRule] = MappingProxyType({BRATS.name: BRATS})


def dice(
    prediction: np.ndarray | Tensor, reference: np.ndarray | Tensor, rule: EmptyRule = BRATS
) -> float:
    """Return 2 |P and R| / (|P| + |R|) of one region.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        rule: decides when a mask is empty.

    Raises:
        ValueError: if shapes differ or a mask is not boolean.
    """
    _check_masks(prediction, reference)
    predicted, present = int(prediction.sum()), int(reference.sum())
    if not predicted and not present:
        return rule.dice_both
    if not predicted or not present:
        return rule.dice_one
    return 2 * int((prediction & reference).sum()) / (predicted + present)


def hd95(
    prediction: np.ndarray | Tensor,
    reference: np.ndarray | Tensor,
    spacing: Sequence[float],
    rule: EmptyRule = BRATS,
) -> float:
    """Return the 95th percentile Hausdorff distance of one region in mm, as MONAI defines it.

    The surface of a mask is its voxels with a face neighbour outside it, or on the image border.
    The larger of the two directed 95th percentiles counts; other tools pool both directions first
    and get other numbers.

    Args:
        prediction: (*S), bool.
        reference: (*S), bool.
        spacing: voxel size in mm along every axis of S.
        rule: decides when a mask is empty.

    Raises:
        ValueError: if shapes differ, a mask is not boolean, or spacing has another length.
    """
    _check_masks(prediction, reference)
    if len(spacing) != prediction.ndim:
        raise ValueError(f"spacing has {len(spacing)} values for {prediction.ndim} axes")
    predicted, present = _as_numpy(prediction), _as_numpy(reference)
    union = predicted | present
    if not union.any():
        return rule.hd95_both
    box = _bounding_box(union)
    predicted, present = predicted[box], present[box]
    if not predicted.any() or not present.any():
        return rule.hd95_one
    ours, theirs = (np.argwhere(_surface(mask)) * spacing for mask in (predicted, present))
    directed = (
        np.percentile(KDTree(target, leafsize=32).query(points)[0], 95)
        for points, target in ((ours, theirs), (theirs, ours))
    )
    return float(max(directed))


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    regions: Sequence[str] = REGIONS,
    rule: EmptyRule = BRATS,
) -> dict[str, float]:
    """Score one patient: ``dice/<region>`` of every region, then ``hd95/<region>`` in mm.

    Args:
        prediction: (R, *S), bool.
        reference: (R, *S), bool.
        spacing: voxel size in mm along every axis of S.
        regions: names of the R regions.
        rule: decides when a region is empty.

    Raises:
        ValueError: if shapes differ, or there are not R regions.
    """
    pairs = list(zip(regions, prediction, reference, strict=True))
    scores = {f"dice/{region}": dice(ours, theirs, rule) for region, ours, theirs in pairs}
    for region, ours, theirs in pairs:
        scores[f"hd95/{region}"] = hd95(ours, theirs, spacing, rule)
    return scores


class RegionDice(Metric):
    """Mean Dice of every region over patients, each counted once however many processes share them.

    A distributed sampler repeats patients until every process has the same number, and a mean over
    its samples would select another checkpoint. So the state keeps a row a patient: the bytes of
    the id and the scores, flat, in one list: it is gathered at once, also from a process that has
    seen nobody.

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
            region: float(np.mean([scores[region] for scores in cases.values()]))
            for region in self.regions
        }
        return {**means, "mean": float(np.mean(list(means.values())))}

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
    """Mean Dice of every region over patients, of a patient over his slices first.

    Args:
        regions: names of the R regions.
        rule: decides when a region is empty in a slice.
    """

    def update(  # type: ignore[override]
        self, prediction: Tensor, reference: Tensor, case_id: str
    ) -> None:
        """Score one patient.

        Args:
            prediction: (N, R, H, W), bool, his slices.
            reference: (N, R, H, W), bool.
            case_id: his id.

        Raises:
            ValueError: if shapes differ, there is no slice or not R regions, or the id is too long.
        """
        if not len(prediction):
            raise ValueError(f"{case_id} has no slice to be scored")
        slices = [
            [dice(mask, target, self.rule) for mask, target in zip(ours, theirs, strict=True)]
            for ours, theirs in zip(prediction, reference, strict=True)
        ]
        means = [float(np.mean(scores)) for scores in zip(*slices, strict=True)]
        if len(means) != len(self.regions):
            raise ValueError(f"{len(means)} masks for the regions {', '.join(self.regions)}")
        self._keep(case_id, means)


def _check_masks(prediction: np.ndarray | Tensor, reference: np.ndarray | Tensor) -> None:
    """Refuse what would broadcast or count probabilities in silence."""
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    for mask in (prediction, reference):
        if mask.dtype not in (torch.bool, np.dtype(bool)):
            raise ValueError(f"a mask has to be boolean, not {mask.dtype}")


def _as_numpy(mask: np.ndarray | Tensor) -> np.ndarray:
    return mask.cpu().numpy() if isinstance(mask, Tensor) else mask


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around the true voxels of a mask that has some."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask with a face neighbour outside; beyond the array is outside."""
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(window)]
    return mask & ~inner
