"""From scanner units to z-scores inside the brain.

Each modality is clipped to its 0.5 and 99.5 percentile over its own non-zero voxels, so that
outliers count little, then centred and scaled by their mean and standard deviation. Everything
outside the brain is `BACKGROUND`. After the z-score 0 is the brain's mean: the fill is the paper's
and MONAI's (`nonzero=True`), and what a convolution pads with.

For networks that were trained elsewhere there are two kinds without clipping. `nonzero` is MONAI's
`NormalizeIntensity(nonzero=True, channel_wise=True)`: over a modality's own non-zero voxels, and
its zeros stay. `brain` is nnU-Net's `ZScoreNormalization` with a mask: over all voxels where any
modality is not zero, and the holes in them. Both give the same where no modality is zero inside
the brain, as in most skull-stripped patients.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

Normalisation = Literal["clipped", "brain", "nonzero"]
NORMALISATION_VERSION = 1  # of `clipped`
BACKGROUND = 0.0
PERCENTILES = (0.5, 99.5)
_FLOAT16_SAFE = 1000.0  # z-scores beyond this are no brain; float16 ends at 65504

Array = npt.NDArray[Any]


def identified(kind: Normalisation) -> int | str:
    """Name a normalisation in identities and cards; the default's is a number in all earlier ones.

    Args:
        kind: the normalisation.
    """
    return NORMALISATION_VERSION if kind == "clipped" else kind


def named(identity: int | str | None) -> str:
    """Return the setting that an identity or card means; the inverse of `identified`."""
    return "clipped" if identity == NORMALISATION_VERSION else str(identity)


def scored_voxels(brain: npt.NDArray[np.bool_], kind: Normalisation) -> npt.NDArray[np.bool_]:
    """Voxels (*S) that a normalisation counts as brain, of those where a modality is not zero."""
    return ndi.binary_fill_holes(brain) if kind == "brain" else brain


def normalise(
    values: Array, brain: npt.NDArray[np.bool_], kind: Normalisation = "clipped"
) -> npt.NDArray[np.float16]:
    """z-score of one modality inside the brain, `BACKGROUND` outside: (*S) to float16 (*S).

    Args:
        values: intensities (*S), 0 outside the brain.
        brain: voxels of the brain (*S), those of `scored_voxels`.
        kind: which voxels give mean and deviation, and whether they are clipped.
    """
    if kind != "clipped":
        return _unclipped(values, brain if kind == "brain" else values != 0)
    if values.dtype == np.int16 or values.dtype == np.uint16 or values.dtype == np.uint8:
        return _by_table(values, brain)
    values = values.astype(np.float32)
    inside = values[values != 0]
    low, high = np.percentile(inside, PERCENTILES)
    clipped = np.clip(inside, low, high)
    mean, deviation = float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))
    scored = _score(np.clip(values, low, high), mean, deviation)
    return np.where(brain, scored, np.float16(BACKGROUND))


def _unclipped(values: Array, inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.float16]:
    """z-scores over the voxels inside, `BACKGROUND` elsewhere."""
    found = values[inside].astype(np.float64)
    scored = _score(values, float(found.mean()), float(found.std()))
    return np.where(inside, scored, np.float16(BACKGROUND))


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
