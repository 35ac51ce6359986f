"""Centres of training patches, balanced over the regions."""

import numpy as np
import numpy.typing as npt

from datamodules.layouts.conventions import CANONICAL

SAMPLES = 4096  # voxels kept a region: more than the patches ever drawn from one case
ABSENT = -1


def region_samples(
    label: npt.NDArray[np.uint8], brain: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.int16]:
    """Random voxels of WT, TC, ET and of tumour-free brain: (4, SAMPLES, 3).

    Drawn once when a case is prepared, so that choosing a centre later costs nothing. Rows of an
    empty region hold `ABSENT`.

    Args:
        label: Canonical label map (d, h, w).
        brain: Voxels inside the brain (d, h, w).
        seed: Makes the draw repeatable.
    """
    rng = np.random.default_rng(seed)
    samples = np.full((4, SAMPLES, 3), ABSENT, np.int16)
    tumour = np.flatnonzero(label)
    values = label.reshape(-1)[tumour]
    core = values != CANONICAL.oedema
    inside = np.flatnonzero(brain)
    elsewhere = inside[label.reshape(-1)[inside] == 0]
    regions = (tumour, tumour[core], tumour[values == CANONICAL.enhancing], elsewhere)
    for row, voxels in zip(samples, regions, strict=True):
        if len(voxels):
            drawn = voxels[rng.integers(len(voxels), size=SAMPLES)]
            row[:] = np.stack(np.unravel_index(drawn, label.shape), axis=1)
    return samples


def draw_centre(
    samples: npt.NDArray[np.int16], rng: np.random.Generator, healthy_share: float | None = None
) -> tuple[int, int, int]:
    """A patch centre: WT, TC, ET and tumour-free brain are equally likely.

    An empty region falls back on the next larger one, and a case without tumour on its brain.

    Args:
        samples: (4, n, 3) of `region_samples`.
        rng: Its next numbers decide.
        healthy_share: Probability of tumour-free brain, from 0 to 1; WT, TC and ET share the rest.
    """
    if healthy_share is None:
        region = int(rng.integers(4))
    else:
        region = 3 if rng.random() < healthy_share else int(rng.integers(3))
    row = int(rng.integers(samples.shape[1]))
    order = {0: (0, 3), 1: (1, 0, 3), 2: (2, 1, 0, 3), 3: (3, 0)}[region]
    chosen = next((r for r in order if samples[r, 0, 0] != ABSENT), 3)
    d, h, w = (int(v) for v in samples[chosen, row])
    return d, h, w


def patch_start(
    centre: tuple[int, ...], patch_size: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """First voxel of the patch around a centre, moved inside the volume where it fits in.

    Where the volume is smaller than the patch it lies in the patch's middle.
    """
    return tuple(
        min(max(c - p // 2, 0), n - p) if n >= p else -((p - n) // 2)
        for c, p, n in zip(centre, patch_size, shape, strict=True)
    )
