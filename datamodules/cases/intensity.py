"""From scanner units to z-scores inside the brain, robust to outliers.

Each modality is clipped to its 0.5 and 99.5 percentile over its own non-zero voxels, then centred
and scaled by their mean and standard deviation. Everything outside the brain is `BACKGROUND`.
After the z-score 0 is the brain's mean: the fill is the paper's and MONAI's (`nonzero=True`), and
what a convolution pads with.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

NORMALISATION_VERSION = 1
BACKGROUND = 0.0
PERCENTILES = (0.5, 99.5)
_FLOAT16_SAFE = 1000.0  # z-scores beyond this are no brain; float16 ends at 65504

Array = npt.NDArray[Any]


def normalise(values: Array, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.float16]:
    """z-score of one modality inside the brain, `BACKGROUND` outside: (*S) to float16 (*S)."""
    if values.dtype == np.int16 or values.dtype == np.uint16 or values.dtype == np.uint8:
        return _by_table(values, brain)
    values = values.astype(np.float32)
    inside = values[values != 0]
    low, high = np.percentile(inside, PERCENTILES)
    clipped = np.clip(inside, low, high)
    mean, deviation = float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))
    scored = _score(np.clip(values, low, high), mean, deviation)
    return np.where(brain, scored, np.float16(BACKGROUND))


def _by_table(values: Array, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.float16]:
    """The same by a histogram: 16-bit voxels take 65536 values, so statistics and scores do too."""
    wide = values if values.dtype != np.int16 else values.view(np.uint16)
    size = 256 if wide.dtype == np.uint8 else 65536
    counts = np.bincount(wide.reshape(-1), minlength=size)
    counts[0] = 0
    levels = np.arange(size, dtype=wide.dtype).view(values.dtype).astype(np.float64)
    order = np.argsort(levels, kind="stable")
    low, high = _percentiles(levels[order], counts[order])
    clipped = np.clip(levels, low, high)
    total = counts.sum()
    mean = float((clipped * counts).sum() / total)
    deviation = float(np.sqrt((counts * (clipped - mean) ** 2).sum() / total))
    table = _score(clipped, mean, deviation)
    scored = table.take(wide)
    np.copyto(scored, np.float16(BACKGROUND), where=~brain)
    return scored


def _percentiles(levels: Array, counts: Array) -> tuple[float, float]:
    """Percentiles of a histogram, interpolated as `numpy.percentile` does."""
    cumulated = np.cumsum(counts)
    found = []
    for percentile in PERCENTILES:
        rank = percentile / 100 * (cumulated[-1] - 1)
        below, above = np.searchsorted(cumulated, [np.floor(rank), np.ceil(rank)], side="right")
        share = rank - np.floor(rank)
        found.append(float(levels[below] * (1 - share) + levels[above] * share))
    return found[0], found[1]


def _score(values: Array, mean: float, deviation: float) -> npt.NDArray[np.float16]:
    scored = (values - mean) / (deviation or 1.0)
    return np.clip(scored, -_FLOAT16_SAFE, _FLOAT16_SAFE).astype(np.float16)
