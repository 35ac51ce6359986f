"""Modalities of a patient that hold one and the same image."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Two sequences of one brain correlate up to about 0.98, a copy rescaled to 8 bits to 0.99995.
RESCALED = 0.9999
_SAMPLES = 20_000


def same_images(images: Mapping[str, Array], hashes: Mapping[str, str]) -> list[str]:
    """One sentence for every group of modalities that hold one image, also in another scaling.

    Args:
        images: Modality to volume on the grid of the case.
        hashes: Modality to digest of its voxels.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name, content in hashes.items():
        groups[content].append(name)
    sentences = [
        f"{' and '.join(names)} hold the same image: give each modality its own file"
        for names in groups.values()
        if len(names) > 1
    ]
    different = {names[0]: images[names[0]] for names in groups.values()}
    sentences += [
        f"{one} and {other} hold the same image in another scaling: give each modality its own file"
        for one, other in combinations(different, 2)
        if _correlation(different[one], different[other]) >= RESCALED
    ]
    return sentences


def _correlation(one: Array, other: Array) -> float:
    """Correlation of two images over some voxels where either is not 0; 0 where it has no sense."""
    if one.shape != other.shape:
        return 0.0
    step = max(1, one.size // (4 * _SAMPLES) | 1)
    # Axes in file order for both, whichever of them was turned.
    pair = np.stack([a.ravel(order="F")[::step].astype(np.float64) for a in (one, other)])
    pair = pair[:, (pair != 0).any(0)]
    if pair.shape[1] < 100 or not pair.std(axis=1).all():
        return 0.0
    return float(np.corrcoef(pair)[0, 1])
