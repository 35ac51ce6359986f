"""A healthy brain of its own for every phantom patient, from the ICBM152 tissue maps.

The maps are those bundled with nilearn (ICBM 2009a nonlinear symmetric, Fonov et al., 2011,
doi:10.1016/j.neuroimage.2010.07.033). They are averages over 152 people, hence blurred; a power
law with local noise turns the tissue probabilities back into folded cortex and open sulci.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.ndimage as ndi

from datamodules.phantom.fields import Field, Grid, layered_noise, sigmoid, smooth_noise

BOX_MM = (160.0, 196.0, 154.0)  # a scaled, rotated, deformed brain fits into it
# Brain of the nine measured patients: 1084 to 1731 ml, median 1520; the ICBM152 mask holds 1886 ml,
# so a linear scale of 0.93 gives the median.
SCALE_MEAN, SCALE_SPREAD = 0.93, 0.035
ORBITS_LEFT = 0.3  # two of the three measured patients keep parts of the orbits


@dataclass(frozen=True)
class Template:
    """ICBM152 maps: tissue at 1 mm, distances at 2 mm, all in RAS order."""

    white: Field
    grey: Field
    fluid: Field
    depth: Field  # 2 mm grid: mm inside the brain's surface, negative outside
    ventricle: Field  # 2 mm grid: mm outside the ventricles, negative inside
    ventricle_push: tuple[Field, Field, Field]  # 2 mm grid: unit vectors away from the ventricles
    cerebral_white: Field  # 4 mm grid: white matter in a 9 mm neighbourhood
    origin: tuple[float, float, float]  # MNI mm of voxel 0

    def voxel(self, mni: tuple[Field, Field, Field], step: float) -> Field:
        """MNI millimetres to voxel coordinates of a map with voxels of `step` mm, (3, *S)."""
        return np.stack(
            [(m - np.float32(o)) / np.float32(step) for m, o in zip(mni, self.origin, strict=True)]
        )


@dataclass
class Anatomy:
    """One patient's healthy brain on a grid; tissue fractions sum to 1 inside `mask`."""

    white: Field
    grey: Field
    fluid: Field
    mask: np.ndarray  # bool: the brain after skull-stripping
    depth: Field  # mm below the brain's surface
    ventricle: Field  # mm outside the ventricles, negative inside
    mni: tuple[Field, Field, Field]  # template coordinates of every voxel, mm


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the bundled maps once a process and derive depth and ventricles."""
    from nilearn.datasets import (
        load_mni152_brain_mask,
        load_mni152_gm_template,
        load_mni152_wm_template,
    )

    image = load_mni152_gm_template(resolution=1)
    grey = np.asarray(image.dataobj, np.float32)
    white = np.asarray(load_mni152_wm_template(resolution=1).dataobj, np.float32)
    mask = np.asarray(load_mni152_brain_mask(resolution=1).dataobj) > 0
    total = np.maximum(grey + white, 1)
    grey, white = grey / total * mask, white / total * mask
    fluid = (mask - grey - white).astype(np.float32)

    inside = mask[::2, ::2, ::2]
    depth = (
        ndi.distance_transform_edt(inside, 2.0) - ndi.distance_transform_edt(~inside, 2.0)
    ).astype(np.float32)
    # Ventricles: the fluid more than 24 mm below the surface that is connected with the bodies of
    # the lateral ventricles, found near MNI (+-8..16, 4, 18).
    deep = (fluid[::2, ::2, ::2] > 0.5) & (depth > 24)
    parts, _ = ndi.label(deep, np.ones((3, 3, 3)))
    origin = tuple(float(v) for v in image.affine[:3, 3])
    seed = [int((m - o) / 2) for m, o in zip((0, 4, 18), origin, strict=True)]
    near = parts[seed[0] - 9 : seed[0] + 10, seed[1] - 4 : seed[1] + 5, seed[2] - 4 : seed[2] + 5]
    ventricles = np.isin(parts, np.unique(near[near > 0]))
    distance = (
        ndi.distance_transform_edt(~ventricles, 2.0) - ndi.distance_transform_edt(ventricles, 2.0)
    ).astype(np.float32)
    soft = ndi.gaussian_filter(distance, 2.0)
    push = np.gradient(soft, 2.0)
    push = [p / np.maximum(np.sqrt(sum(q * q for q in push)), 0.3) for p in push]
    return Template(
        white,
        grey,
        fluid,
        depth,
        distance,
        (push[0].astype(np.float32), push[1].astype(np.float32), push[2].astype(np.float32)),
        np.ascontiguousarray(ndi.uniform_filter(white, 9)[::4, ::4, ::4]),
        (origin[0], origin[1], origin[2]),
    )


def brain_grid(spacing: float) -> Grid:
    """The box every phantom brain is simulated in."""
    i, j, k = (round(length / spacing) for length in BOX_MM)
    return Grid((i, j, k), spacing)


def _sample(volume: Field, voxel: Field, where: np.ndarray, outside: float = 0.0) -> Field:
    """Interpolate a template map at the voxels of `where` only; most of the box is empty."""
    found = np.full(where.shape, outside, np.float32)
    found[where] = ndi.map_coordinates(
        volume, voxel[:, where], order=1, mode="nearest", output=np.float32
    )
    return found


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix from three angles (radians) about x, y and z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx


def orbits(mni: tuple[Field, Field, Field]) -> Field:
    """Fraction of orbit, 0 to 1: in front of and below the frontal lobes, beside the nose."""
    x, y, z = mni
    return sigmoid((y - 28) / 5) * sigmoid((-10 - z) / 4) * sigmoid((np.abs(x) - 8) / 3)


@dataclass(frozen=True)
class Pose:
    """The affine part of one patient's map from grid millimetres to MNI millimetres."""

    matrix: np.ndarray  # (3, 3)
    centre: np.ndarray  # MNI mm of the grid's centre

    def to_grid(self, mni: np.ndarray) -> np.ndarray:
        """Grid millimetres of MNI points (N, 3)."""
        return (mni - self.centre) @ np.linalg.inv(self.matrix).T


def draw_pose(rng: np.random.Generator) -> Pose:
    """Head size, proportions and tilt of one patient."""
    scale = rng.normal(SCALE_MEAN, SCALE_SPREAD) * rng.normal(1, 0.02, 3)
    tilt = _rotation(np.deg2rad(rng.normal(0, [4, 2.5, 3])))
    return Pose(tilt @ np.diag(1 / scale), np.array([0.0, -17.0, 4.0]) + rng.normal(0, 2, 3))


def draw_anatomy(
    rng: np.random.Generator, grid: Grid, pose: Pose, push: tuple[Field, Field, Field] | None
) -> Anatomy:
    """Deform the template into one patient's brain.

    Args:
        rng: the patient's anatomy stream.
        grid: grid of the brain.
        pose: affine part of the map.
        push: mass effect of the tumour, mm by which tissue is pushed along each axis, or None.
    """
    template = load_template()
    mni = _warped_coordinates(rng, grid, pose, template, push)
    fine, coarse = template.voxel(mni, 1.0), template.voxel(mni, 2.0)
    depth = _sample(template.depth, coarse, _near(grid), outside=-50.0)
    near = depth > -12
    white, grey, fluid = (
        _sample(m, fine, near) for m in (template.white, template.grey, template.fluid)
    )
    ventricle = _sample(template.ventricle, coarse, near, outside=50.0)
    # Skull-strippers cut between 2.5 mm too deep and 2 mm too shallow, unevenly.
    surface = depth + rng.uniform(-2.0, 1.5) + 0.8 * layered_noise(rng, grid, (30.0, 12.0))
    if rng.random() < ORBITS_LEFT:
        rest = sigmoid(4 * layered_noise(rng, grid, (16.0, 8.0)) + np.float32(rng.uniform(-1, 3)))
        surface += np.float32(rng.uniform(5, 11)) * orbits(mni) * rest
    mask = surface > 0
    fluid += np.clip(1 - grey - white - fluid, 0, 1)  # outside the template's own mask
    # From probability to tissue. The power sharpens the averaged maps; the factor on fluid
    # is the width of the sulci, which grows with age; local noise makes folds individual.
    power = rng.uniform(1.6, 3.0)
    openness = np.exp(rng.uniform(np.log(0.9), np.log(4.5)))
    folds = np.exp(0.35 * layered_noise(rng, grid, (12.0, 5.0)))
    cortex = np.exp(0.20 * layered_noise(rng, grid, (14.0, 6.0)))
    fluid = (openness * fluid * folds) ** power
    grey = (grey * cortex) ** power
    white = white**power
    total = np.maximum(fluid + grey + white, 1e-6)
    return Anatomy(white / total, grey / total, fluid / total, mask, depth, ventricle, mni)


def _near(grid: Grid) -> np.ndarray:
    """Voxels that a brain can reach: an ellipsoid a little larger than the box."""
    x, y, z = grid.axes()
    return (x / 88) ** 2 + (y / 105) ** 2 + (z / 92) ** 2 < 1


def _warped_coordinates(
    rng: np.random.Generator,
    grid: Grid,
    pose: Pose,
    template: Template,
    push: tuple[Field, Field, Field] | None,
) -> tuple[Field, Field, Field]:
    """MNI coordinates of every voxel: pose, smooth deformation, ventricle size, mass effect."""
    axes = grid.axes()
    shift = [np.zeros(grid.shape, np.float32) for _ in range(3)]
    for knot, amplitude in ((60.0, 3.0), (26.0, 1.5), (12.0, 0.6)):  # mm
        for axis in range(3):
            shift[axis] += np.float32(amplitude) * smooth_noise(rng, grid, knot)
    matrix = pose.matrix.astype(np.float32)
    mni = [
        sum((matrix[r, c] * axes[c] for c in range(3)), np.float32(pose.centre[r])) + shift[r]
        for r in range(3)
    ]
    coarse = template.voxel((mni[0], mni[1], mni[2]), 2.0)
    if push is not None:  # tissue gives way, the skull does not
        moved = np.abs(push[0]) + np.abs(push[1]) + np.abs(push[2]) > 0.3
        firm = np.clip(_sample(template.depth, coarse, moved) / 22, 0, 1)
        displacement = [firm * p for p in push]
        for r in range(3):
            mni[r] -= sum(matrix[r, c] * displacement[c] for c in range(3))
        coarse = template.voxel((mni[0], mni[1], mni[2]), 2.0)
    # Ventricles from slit-like (-2 mm) to wide (+6 mm, with age), fading over 18 mm of tissue.
    widen = np.float32(rng.choice([rng.uniform(-2, 2), rng.uniform(1, 6)]))
    x, y, z = mni
    central = (np.abs(x) < 62) & (y > -105) & (y < 70) & (z > -45) & (z < 65)
    distance = _sample(template.ventricle, coarse, central, outside=50.0)
    central &= distance < 40
    fade = widen * np.exp(-((np.clip(distance, 0, None) / 18) ** 2))
    fade *= np.clip(1 + distance / 8, 0, 1)  # none in the middle of a ventricle, where vectors meet
    for axis in range(3):
        mni[axis] -= fade * _sample(template.ventricle_push[axis], coarse, central)
    return mni[0], mni[1], mni[2]
