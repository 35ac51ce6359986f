"""The position of a NIfTI file's voxels, from a header whose fields may be unset or broken."""

from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError

from datamodules.nifti.geometry import corner_distance

AFFINE_TOLERANCE = 0.1  # mm that the corners of two grids may lie apart
SHORTEST, LONGEST = 0.05, 50.0  # mm; voxel edges that occur in images of a head
UNSTATED = "states no orientation"
_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}  # NIfTI's codes; 2 is mm, 0 unstated

Affine = npt.NDArray[np.float64]


def position_of(header: Any) -> tuple[Affine, Any, tuple[str, ...]]:
    """Return a header's affine, the header that states it, and notices on its faults.

    The sform counts where it is set and describes a grid, else the qform, else the voxel size
    alone. The header comes back as it is unless another reader would take another position.

    Args:
        header: nibabel's NIfTI header, unchecked.

    Returns:
        (4, 4) voxel index to mm; the header; sentences for the user.

    Raises:
        HeaderDataError: It states no voxel size.
    """
    sform = np.asarray(header.get_sform(), np.float64)
    straight, qform = _qform(header)
    by_sform = int(header["sform_code"]) > 0 and is_grid(sform)
    by_qform = int(header["qform_code"]) > 0 and qform is not None
    notices = []
    if by_sform:
        affine, mended = sform, header
        if by_qform and qform is not None:
            apart = corner_distance(sform, qform, header.get_data_shape()[:3])
            if apart > AFFINE_TOLERANCE:
                notices.append(f"sform and qform put its corners {apart:.1f} mm apart: sform taken")
    elif by_qform and qform is not None:
        affine, mended = qform, straight
        if int(header["sform_code"]) > 0:
            mended["sform_code"] = 0
            notices.append("its sform describes no grid: the qform is taken")
    else:
        affine, mended = np.asarray(straight.get_base_affine(), np.float64), straight
        mended["sform_code"] = mended["qform_code"] = 0
        if not is_grid(affine):
            raise HeaderDataError("it states no voxel size: sform, qform and pixdim are unset")
        notices.append(
            f"its header {UNSTATED} (sform and qform are unset or describe no grid): read as LAS, "
            "left and right may be swapped"
        )
    return _in_mm(affine, mended, notices)


def is_grid(affine: Affine) -> bool:
    """Whether an affine spans a volume."""
    edges = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if not np.isfinite(affine).all() or not edges.all():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / edges)) > 1e-3)


def _qform(header: Any) -> tuple[Any, Affine | None]:
    """A copy of the header with a legal pixdim, and its qform where that describes a grid."""
    straight = header.copy()
    pixdim = np.array(header["pixdim"])
    pixdim[0] = -1 if pixdim[0] < 0 else 1  # 0 counts as 1
    pixdim[1:4] = np.abs(pixdim[1:4])
    if not np.array_equal(pixdim, header["pixdim"]):
        straight["pixdim"] = pixdim
    try:
        qform = np.asarray(straight.get_qform(), np.float64)
    except (HeaderDataError, ValueError):  # quaternions of no rotation
        return straight, None
    return straight, qform if is_grid(qform) else None


def _in_mm(affine: Affine, header: Any, notices: list[str]) -> tuple[Affine, Any, tuple[str, ...]]:
    """Convert to mm where the header states another unit that gives plausible voxel edges."""
    unit, factor = _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    edges = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if factor != 1 and not _plausible(edges) and _plausible(edges * factor):
        affine = affine.copy()
        affine[:3] *= factor
        header = header.copy()
        header["xyzt_units"] = (int(header["xyzt_units"]) & ~7) | 2
        header.set_sform(affine, max(1, int(header["sform_code"])))
        header.set_qform(affine, max(1, int(header["qform_code"])))
        notices.append(f"its header is in {unit}: turned into mm")
    return affine, header, tuple(notices)


def _plausible(edges: Affine) -> bool:
    return bool(((edges >= SHORTEST) & (edges <= LONGEST)).all())
