"""Calibration of probabilities: reliability bins and expected calibration error.

The domain is every voxel that got a probability of at least 1 %. Background that a network is sure
of is more than 95 % of a brain and rightly near 0, and with it every calibration error looks like
0. The domain depends on the probabilities alone: not on the reference, which would bias the bins,
nor on an image, so masks of any tool can be measured. Voxels below 1 % have a bin outside the
domain; the share of the region that lies there is reported beside the error, as overlooked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 10
ROUNDING = 1e-4  # error of interpolation in float32
DOMAIN_FROM = 0.01
# The first bin lies outside the domain.
EDGES = np.array([0.0, DOMAIN_FROM, *(np.arange(1, BINS + 1) / BINS)])


@dataclass(frozen=True)
class Reliability:
    """Counts by probability of one region; those of patients or processes add up.

    Args:
        voxels: (BINS + 1), how many voxels fell into each bin of ``EDGES``.
        probability: (BINS + 1), sum of their probabilities.
        present: (BINS + 1), how many of them the reference holds.
    """

    voxels: np.ndarray
    probability: np.ndarray
    present: np.ndarray

    def __add__(self, other: "Reliability") -> "Reliability":
        """Return the counts of both."""
        return Reliability(
            self.voxels + other.voxels,
            self.probability + other.probability,
            self.present + other.present,
        )

    @property
    def ece(self) -> float:
        """Expected calibration error over the domain (Guo et al. 2017, arXiv:1706.04599).

        The mean over voxels of | share of the bin that is present - mean probability of the bin |,
        of the probability of the region itself, not of the likelier class; NaN without a voxel.
        """
        voxels = int(self.voxels[1:].sum())
        gaps = np.abs(self.present[1:] - self.probability[1:])
        return float(gaps.sum()) / voxels if voxels else float("nan")

    @property
    def overlooked(self) -> float:
        """Share of the region's voxels with less than 1 %; NaN where there is no region."""
        present = int(self.present.sum())
        return float(self.present[0]) / present if present else float("nan")

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a bin: its edges and counts, to be added up over patients."""
        return [
            {
                "from": float(EDGES[index]),
                "to": float(EDGES[index + 1]),
                "voxels": int(self.voxels[index]),
                "probability_sum": float(self.probability[index]),
                "present": int(self.present[index]),
            }
            for index in range(len(self.voxels))
        ]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "Reliability":
        """Add up rows of ``calibration.csv``, of one patient or of many."""
        total = np.zeros((3, BINS + 1))
        for row in rows:
            place = int(np.searchsorted(EDGES, float(row["from"]), side="right")) - 1
            total[:, place] += [float(row[k]) for k in ("voxels", "probability_sum", "present")]
        return cls(total[0].astype(np.int64), total[1], total[2].astype(np.int64))


def measure_reliability(probability: np.ndarray, reference: np.ndarray) -> Reliability:
    """Count the voxels of one region of one patient.

    Args:
        probability: (*S), from 0 to 1.
        reference: (*S), bool.

    Raises:
        ValueError: if shapes differ, the reference is not boolean, or a probability is none.
    """
    if probability.shape != reference.shape:
        raise ValueError(f"probability {probability.shape} and reference {reference.shape} differ")
    if reference.dtype != np.dtype(bool):
        raise ValueError(f"a reference has to be boolean, not {reference.dtype}")
    low, high = (probability.min(), probability.max()) if probability.size else (0.0, 1.0)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN too
        raise ValueError(f"a probability has to be from 0 to 1, here they are {low:g} to {high:g}")
    if probability.flags.f_contiguous:  # a NIfTI file's order, in which indexing is slow
        probability, reference = probability.T, reference.T
    inside = probability >= DOMAIN_FROM
    values, truth = np.minimum(probability[inside].astype(np.float64), 1), reference[inside]
    # 1 % in float32 lies below 1 % in float64, but in the domain.
    places = np.clip(np.searchsorted(EDGES, values, side="right") - 1, 1, BINS)
    voxels, probabilities, present = (
        np.bincount(places, weights, BINS + 1) for weights in (None, values, truth)
    )
    voxels[0] = probability.size - len(values)
    probabilities[0] = probability.sum(dtype=np.float64) - values.sum()
    present[0] = np.count_nonzero(reference) - np.count_nonzero(truth)
    return Reliability(
        voxels.astype(np.int64), probabilities.astype(np.float64), present.astype(np.int64)
    )
