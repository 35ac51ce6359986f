"""Whether two volumes lie on one grid, and one brought to the other's order of voxels.

Tools store the same grid with axes turned over or exchanged. Only that is undone here, exactly;
nothing is interpolated.
"""

from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from datamodules.nifti.geometry import corner_distance
from datamodules.nifti.position import AFFINE_TOLERANCE, LONGEST, SHORTEST, UNSTATED
from datamodules.nifti.volume import Volume

Array = npt.NDArray[Any]
SHEAR_LIMIT = 5.0  # degrees that axes may miss a right angle by; distances are then 0.4 % off
SHEAR_NOTICE = 0.5


def onto_grid(array: Array, affine: Array, grid: Array, shape: tuple[int, ...]) -> Array | None:
    """An array in the order of voxels of a grid at the same place, as a view.

    Args:
        array: Voxels, (*S) or with more axes behind the first three.
        affine: (4, 4) of the array.
        grid: (4, 4) of the grid.
        shape: Shape of the grid, three axes.

    Returns:
        The view, the array itself where nothing is to be done; None where the places differ.
    """
    if array.ndim < 3 or len(shape) < 3 or not np.isfinite(affine).all():
        return None
    if sorted(array.shape[:3]) != sorted(shape[:3]):
        return None
    # Voxel index of the array to that of the grid: whole numbers where only the order differs.
    turn = np.rint(np.linalg.solve(grid, affine)[:3, :3])
    if not ((np.abs(turn).sum(0) == 1).all() and (np.abs(turn).sum(1) == 1).all()):
        return None
    axes = np.abs(turn).argmax(1)
    moved = array.transpose(*axes, *range(3, array.ndim))
    if moved.shape[:3] != tuple(shape[:3]):
        return None
    back = np.eye(4)  # index of the grid to index of the array
    back[:3, :3] = turn.T
    flips = turn.sum(1) < 0
    back[:3, 3] = turn.T @ np.where(flips, 1.0 - np.array(shape[:3]), 0.0)
    if not corner_distance(affine @ back, grid, tuple(shape[:3])) <= AFFINE_TOLERANCE:
        return None
    if moved.strides == array.strides and not flips.any():
        return array
    return moved[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def aligned(volume: Volume, reference: Volume) -> Volume | None:
    """A volume in the order of voxels of another at the same place; None elsewhere."""
    array = onto_grid(
        volume.array, volume.affine, reference.affine, tuple(reference.array.shape[:3])
    )
    if array is None:
        return None
    if array is volume.array:
        return volume
    order = f"stored {axes_of(volume.affine)}, turned to {axes_of(reference.affine)}"
    return Volume(array, reference.affine, reference.header, (*volume.notices, order))


def axes_of(affine: Array) -> str:
    """Directions of an array's axes, such as LPS."""
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def difference(name: str, volume: Volume, anchor: str, reference: Volume, advice: str) -> str:
    """Return how the grids of two volumes differ that no reordering of axes makes equal.

    Args:
        name: Name of the volume.
        volume: The volume whose grid differs.
        anchor: Name of the reference.
        reference: The volume whose grid it should have.
        advice: What to do if the grids truly differ.
    """
    shapes = volume.array.shape[:3], reference.array.shape[:3]
    if shapes[0] != shapes[1]:
        return f"{name} has the shape {shapes[0]} and {anchor} {shapes[1]}: {advice}"
    for one, found, other in ((name, volume, anchor), (anchor, reference, name)):
        if UNSTATED in "".join(found.notices):
            return (
                f"the header of {one} {UNSTATED}, that of {other} may: if both lie on one grid, "
                f"copy it from {other} (fslcpgeom or nibabel), else {advice}"
            )
    apart = corner_distance(volume.affine, reference.affine, shapes[0])
    return f"the affines of {name} and {anchor} put their corners {apart:.1f} mm apart: {advice}"


def grid_problem(volume: Volume) -> tuple[str, str]:
    """Return why a grid is unusable, and a notice about a usable one; either may be empty."""
    affine, shape = volume.affine, volume.array.shape[:3]
    edges = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12 or not edges.all():
        return "has an affine that describes no grid: export it again", ""
    if min(shape) == 1:
        return f"has a single slice {shape}: expected a volume of the whole brain", ""
    if edges.min() < SHORTEST or edges.max() > LONGEST:
        size = " x ".join(f"{edge:.4g}" for edge in edges)
        return (
            f"has voxels of {size} mm, expected {SHORTEST:g} to {LONGEST:g}: correct the voxel "
            "size in its header (mm)",
            "",
        )
    axes = affine[:3, :3] / edges
    cosines = (axes.T @ axes)[np.triu_indices(3, 1)]
    shear = float(np.degrees(np.arcsin(np.clip(np.abs(cosines).max(), 0, 1))))
    if shear > SHEAR_LIMIT:
        return (
            f"is sheared by {shear:.0f} degrees (gantry tilt): resample it to a straight grid",
            "",
        )
    if shear > SHEAR_NOTICE:
        return "", f"sheared by {shear:.1f} degrees: distances are approximate"
    return "", ""
