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
    """Correlation of two images over some voxels where either is not 0; 0 where undefined."""
    if one.shape != other.shape:
        return 0.0
    step = max(1, round((one.size / _SAMPLES) ** (1 / 3)))
    a, b = (image[::step, ::step, ::step].ravel().astype(np.float64) for image in (one, other))
    inside = (a != 0) | (b != 0)
    a, b = a[inside], b[inside]
    if a.size < 100 or not a.std() or not b.std():
        return 0.0
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
