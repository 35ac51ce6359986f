"""Structures of real scans beside brain and tumour that are not in the label.

White-matter spots and periventricular caps (FLAIR-bright without being tumour), vessels, sinus,
falx and choroid plexus (bright on T1ce without being tumour), meninges and orbital fat that
skull-stripping left over. A network that has never seen them calls each of them tumour.
"""

import numpy as np

from datamodules.phantom.anatomy import Anatomy, orbits
from datamodules.phantom.fields import Field, Grid, layered_noise, sigmoid, smooth_noise
from datamodules.phantom.variety import Pieces

WIDE_VESSELS = 0.4  # share of patients whose vessels and choroid plexus are up to 2.2 times wider


def draw_confounders(
    rng: np.random.Generator, brain: Anatomy, grid: Grid, pieces: Pieces
) -> dict[str, Field]:
    """Fractions of a voxel taken by each confounder, by tissue name of `phantom_signal`."""
    wide = pieces.happens("vessels", WIDE_VESSELS)
    width = wide.uniform(1.2, 2.2) if wide else 1.0
    found = {
        "gliosis": _gliosis(rng, brain, grid),
        "blood": _vessels(rng, brain, grid, width),
        "choroid": _choroid(rng, brain, grid, width),
        "dura": _dura(rng, brain, grid),
        "fat": _fat(rng, brain, grid),
    }
    total = np.maximum(sum(found.values(), np.zeros(grid.shape, np.float32)), 1)
    return {name: part / total for name, part in found.items()}


def _gliosis(rng: np.random.Generator, brain: Anatomy, grid: Grid) -> Field:
    """Periventricular rim and caps, and spots in deep white matter; the load grows with age.

    Most adults over 60 have some (Fazekas grades 1 to 3, doi:10.2214/ajr.149.2.351).
    """
    load = rng.beta(1.0, 1.6)
    outside = np.clip(brain.ventricle, 0, None)
    rim = np.exp(-outside / np.float32(rng.uniform(0.8, 1.8) + 3.5 * load * rng.random()))
    rim *= np.clip(0.55 + 0.5 * layered_noise(rng, grid, (22.0, 9.0)), 0, 1)
    spots = sigmoid((smooth_noise(rng, grid, rng.uniform(4.5, 8.0)) - (3.6 - 1.4 * load)) * 5)
    patches = sigmoid((layered_noise(rng, grid, (16.0, 8.0)) - (3.4 - 1.2 * load)) * 4)
    deep = np.clip((brain.depth - 8) / 6, 0, 1)
    level = rim * np.float32(rng.uniform(0.2, 0.9)) + (spots + 0.8 * patches) * deep
    return np.minimum(level, 1) * (brain.white + 0.3 * brain.grey) * (brain.ventricle > 0)


def _vessels(rng: np.random.Generator, brain: Anatomy, grid: Grid, wider: float) -> Field:
    """Tubes where two smooth fields vanish together, thick in sulci, plus the sagittal sinus."""
    first, second = (smooth_noise(rng, grid, k) for k in (15.0, 17.0))
    # The gradient of such a field is about 1.3 / knot, so a level of 0.08 is a radius near 1 mm.
    axis = np.sqrt(first**2 + second**2)
    base = np.float32(wider * rng.uniform(0.06, 0.14))
    width = base * (0.5 + brain.fluid + 0.5 * (brain.depth < 4))
    tubes = sigmoid((width - axis) / np.float32(0.02))
    tubes *= np.clip(brain.fluid * 1.5 + 0.12 * brain.grey + 0.04, 0, 1)
    x, y, z = brain.mni
    sinus = np.exp(-((x / 4) ** 2) - (np.clip(brain.depth, 0, None) / 3.5) ** 2)
    sinus *= sigmoid((z - 10 - 0.6 * np.clip(y, -60, None)) / 8) * np.float32(rng.uniform(0, 1))
    return np.minimum(tubes * np.float32(rng.uniform(0.4, 1.0)) + sinus, 1)


def _choroid(rng: np.random.Generator, brain: Anatomy, grid: Grid, more: float) -> Field:
    """Tufts in the ventricles' posterior parts."""
    tuft = sigmoid((layered_noise(rng, grid, (9.0, 5.0)) - rng.uniform(0.7, 1.6) / more) * 4)
    return tuft * (brain.ventricle < 0.5) * sigmoid((-brain.mni[1] - 5) / 4) * brain.fluid


def _dura(rng: np.random.Generator, brain: Anatomy, grid: Grid) -> Field:
    """Meninges left at the surface in patches, and the falx between the hemispheres."""
    patch = layered_noise(rng, grid, (40.0, 15.0)) + np.float32(rng.uniform(-1.6, 0.8))
    shell = sigmoid((np.float32(rng.uniform(0.2, 1.6)) - brain.depth) / np.float32(0.5))
    x, _, z = brain.mni
    falx = np.exp(-((x / np.float32(1.1)) ** 2)) * np.clip(brain.fluid * 1.6, 0, 1) * (z > 5)
    return np.minimum(shell * sigmoid(patch * 4) + falx * np.float32(rng.uniform(0, 0.8)), 1)


def _fat(rng: np.random.Generator, brain: Anatomy, grid: Grid) -> Field:
    """Remains of orbit or scalp that a stripper missed, or that thick slices smear inwards."""
    place = orbits(brain.mni) * sigmoid((-0.8 - brain.depth) / np.float32(0.4))
    socket = place * sigmoid(3 * layered_noise(rng, grid, (14.0, 7.0)) + 2)
    if rng.random() > 0.2:
        return socket
    shell = sigmoid((np.float32(rng.uniform(0.5, 3.0)) - brain.depth) / np.float32(0.6))
    patch = sigmoid((layered_noise(rng, grid, (25.0, 9.0)) - 1.3) * 5)
    front = orbits(brain.mni) * sigmoid(smooth_noise(rng, grid, 12.0) * 4)
    return np.maximum(socket, shell * np.maximum(patch * np.float32(0.5), front))
