"""Random fields on a voxel grid: the phantom's source of everything irregular.

Fields are cubic B-splines over a lattice of Gaussian numbers, evaluated axis by axis with sparse
matrices: a field of 0.6 million voxels costs milliseconds, and no threaded library takes part, so
the same generator gives the same bytes on every run.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray
from scipy import sparse

Field = NDArray[Any]  # float32 throughout; numpy's own types call every mixed product "floating"

# A cubic B-spline over independent unit lattice values has the variance (mean of the sum of its
# squared weights) ** 3 = 0.479 ** 3; its inverse root restores unit variance.
_SPLINE_GAIN = 0.479365**-1.5


@dataclass(frozen=True)
class Grid:
    """An isotropic voxel grid in (i, j, k) = (right, anterior, superior), centred on 0 mm."""

    shape: tuple[int, int, int]
    spacing: float  # mm

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return self.spacing**3 / 1000.0

    def axes(self) -> tuple[Field, Field, Field]:
        """Millimetre coordinates of the voxel centres along each axis, shaped to broadcast."""
        i, j, k = (
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(self.spacing)
            for n in self.shape
        )
        return i[:, None, None], j[None, :, None], k[None, None, :]


def along_axis(matrix: sparse.csr_matrix, field: Field, axis: int) -> Field:
    """Apply a sparse (out, in) matrix along one axis of a field."""
    front = np.ascontiguousarray(np.moveaxis(field, axis, 0))
    mixed = matrix @ front.reshape(front.shape[0], -1)
    return np.moveaxis(mixed.reshape(-1, *front.shape[1:]), 0, axis)


def _spline_matrix(n: int, spacing: float, knot: float) -> sparse.csr_matrix:
    """Cubic B-spline weights (n, lattice) for n samples `spacing` apart and knots `knot` apart."""
    position = np.arange(n) * spacing / knot
    cell = np.floor(position).astype(int)
    t = position - cell
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    columns = cell[:, None] + np.arange(4)
    rows = np.repeat(np.arange(n), 4)
    width = int(np.ceil(n * spacing / knot)) + 4
    return sparse.csr_matrix(
        ((weights / 6).ravel().astype(np.float32), (rows, columns.ravel())), shape=(n, width)
    )


def smooth_noise(rng: np.random.Generator, grid: Grid, knot: float) -> Field:
    """Zero-mean, unit-variance random field whose features are about `knot` mm wide."""
    matrices = [_spline_matrix(n, grid.spacing, knot) for n in grid.shape]
    field: Field = rng.standard_normal([m.shape[1] for m in matrices], dtype=np.float32)
    for axis in (2, 1, 0):
        field = along_axis(matrices[axis], field, axis)
    return np.ascontiguousarray(field) * np.float32(_SPLINE_GAIN)


def layered_noise(rng: np.random.Generator, grid: Grid, knots: tuple[float, ...]) -> Field:
    """Unit-variance sum of smooth fields, each half as strong as the one before."""
    total = np.zeros(grid.shape, np.float32)
    power = 0.0
    for level, knot in enumerate(knots):
        total += np.float32(0.5**level) * smooth_noise(rng, grid, knot)
        power += 0.25**level
    return total / np.float32(np.sqrt(power))


def sigmoid(x: Field) -> Field:
    """Logistic function, safe for large arguments."""
    return (1 / (1 + np.exp(-np.clip(x, -30, 30)))).astype(np.float32)


def blur(field: Field, sigma: float) -> Field:
    """Gaussian blur, `sigma` in voxels."""
    if sigma < 0.15:
        return field
    return ndi.gaussian_filter(field, sigma, mode="nearest", truncate=3.0)


def thick_slices(field: Field, axis: int, thickness: float, offset: float, step: float) -> Field:
    """Average a field into slices `thickness` mm deep along `axis`, then interpolate them back.

    Args:
        field: image on an isotropic grid.
        axis: slice direction.
        thickness: slice thickness and distance, mm.
        offset: where the first slice lies, as a fraction of a slice.
        step: voxel size of the grid, mm.
    """
    n = field.shape[axis]
    centre = (np.arange(n) * step) / thickness + offset  # in slices
    slices = np.round(centre).astype(int)
    slices -= slices.min()
    count = int(slices.max()) + 1
    ones = np.ones(n, np.float32)
    average = sparse.csr_matrix((ones, (slices, np.arange(n))), shape=(count, n))
    average = sparse.diags((1 / np.bincount(slices, minlength=count)).astype(np.float32)) @ average
    middle = np.array([centre[slices == s].mean() for s in range(count)])
    right = np.clip(np.searchsorted(middle, centre), 1, count - 1)
    gap = middle[right] - middle[right - 1]
    weight = np.clip((centre - middle[right - 1]) / gap, 0, 1).astype(np.float32)
    rows = np.arange(n)
    spread = sparse.csr_matrix(
        (
            np.concatenate([1 - weight, weight]).astype(np.float32),
            (np.concatenate([rows, rows]), np.concatenate([right - 1, right])),
        ),
        shape=(n, count),
    )
    return np.ascontiguousarray(along_axis(sparse.csr_matrix(spread @ average), field, axis))
