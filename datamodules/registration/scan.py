"""One sequence of an exam, checked and made ready to be registered with SimpleITK."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.nifti.grids import onto_grid
from datamodules.nifti.volume import Volume, read_header, read_volume
from errors import InputError

FEWEST_SLICES = 4  # fewer do not show how a head is turned
SHEAR = 2e-3  # radians that a grid's axes may miss a right angle by; headers are rounded
HEAD_MM = 180.0  # below that from the crown lie jaw and neck, which do not move with the head
BRAIN_MM = 60.0  # the smallest edge of a box around a brain
SMOOTHING = 0.5  # sigma over a level's spacing; reduces the metric's interpolation artefacts
_FINEST, _COARSE = 1.0, 4.0  # mm; of the image that is registered, of its foreground mask
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Array = npt.NDArray[Any]


class Scan:
    """A sequence in memory.

    Attributes:
        name: The modality.
        volume: Voxels and geometry of the file.
        image: SimpleITK image for registration, float32, about 1 mm where the file is finer,
            bright outliers clipped.
        foreground: SimpleITK mask of brain or head at about 4 mm, without jaw and neck.
        background: The value outside the head.
    """

    def __init__(self, name: str, volume: Volume) -> None:
        import SimpleITK as sitk  # noqa: N813 - its customary name

        self.name = name
        self.volume = volume
        self.background = background_of(volume.array)
        shifted = volume.array.astype(np.float32) - np.float32(self.background)
        image = shrink(to_sitk(shifted, volume.affine), _FINEST)
        self.foreground = _foreground(image)
        inside = sitk.GetArrayViewFromImage(image)
        inside = inside[inside > 0][::7]
        top = float(np.percentile(inside, 99.5)) if inside.size else 1.0
        self.image = sitk.Clamp(image, sitk.sitkFloat32, 0.0, top)
        self._levels: dict[float, Any] = {}

    @property
    def centre(self) -> Array:
        """Centre of mass of the foreground, LPS mm."""
        return self.points.mean(axis=0)

    @property
    def points(self) -> Array:
        """Foreground voxel centres, LPS mm: (N, 3)."""
        import SimpleITK as sitk  # noqa: N813 - its customary name

        index = np.argwhere(sitk.GetArrayViewFromImage(self.foreground) > 0)[:, ::-1]
        return to_world(self.foreground, index)

    def level(self, spacing: float) -> Any:
        """The image smoothed and shrunk to about `spacing` mm, never across thicker slices."""
        import SimpleITK as sitk  # noqa: N813 - its customary name

        if spacing not in self._levels:
            coarse = shrink(self.image, spacing)
            self._levels[spacing] = sitk.SmoothingRecursiveGaussian(coarse, SMOOTHING * spacing)
        return self._levels[spacing]


def header_problem(name: str, path: Path) -> str:
    """Return a problem that shows in a file's header; empty when there is none."""
    if not path.exists():
        return f"{name} {path} does not exist: give the folder again or restore the file"
    try:
        header = read_header(path)
    except InputError as error:
        return f"{name} is not a readable NIfTI image: {str(error).rstrip('.')}"
    return shape_problem(name, header.shape)


def shape_problem(name: str, shape: Sequence[int]) -> str:
    """Return why a sequence's shape is unusable; empty when it is usable."""
    shape = tuple(shape)
    if len(shape) == 2:
        return f"{name} is a 2-D image {shape}: expected a 3-D sequence of the whole brain"
    if len(shape) != 3:
        return f"{name} is {len(shape)}-D {shape}: expected one 3-D volume, export it alone"
    if min(shape) == 1:
        return (
            f"{name} has a single slice {shape}: expected a sequence of the whole brain, at least "
            f"{FEWEST_SLICES} slices"
        )
    if min(shape) < FEWEST_SLICES:
        return f"{name} has {min(shape)} slices {shape}: expected at least {FEWEST_SLICES}"
    return ""


def read_scan(name: str, path: Path) -> Scan:
    """Read and check a sequence.

    Raises:
        InputError: The file is unreadable, not a 3-D image, empty, or shows no head.
    """
    volume = read_volume(path)
    array = volume.array
    problem = shape_problem(name, array.shape)
    if problem:
        raise InputError(problem)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} holds {array.dtype}: expected a grey value a voxel")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise InputError(f"{name} holds NaN or Inf in {wrong} voxels: export {path.name} again")
    if array.min() == array.max():
        raise InputError(f"{name} is empty (all voxels {array.min():g}): export it again")
    try:
        scan = Scan(name, volume)
    except InputError as error:  # of its grid; `to_sitk` does not know the name
        raise InputError(f"{name}: {error}") from error
    points = scan.points
    extent = np.ptp(points, axis=0) if len(points) else np.zeros(3)
    if extent.min() < BRAIN_MM:
        size = " x ".join(f"{edge:.0f}" for edge in extent)
        raise InputError(
            f"{name} shows only {size} mm of a head, its field of view misses the brain or the "
            "skull-stripping failed: give a sequence of the whole brain"
        )
    return scan


def to_sitk(array: Array, affine: Array) -> Any:
    """A SimpleITK image of an array in file order and its RAS affine.

    Raises:
        InputError: The grid has no right angles (gantry tilt), or no extent.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name

    lps = _LPS @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(0))
    if not np.isfinite(lps).all() or spacing.min() < 1e-3 or abs(np.linalg.det(lps)) < 1e-9:
        raise InputError("its header describes no grid (a zero or infinite affine): export again")
    axes = lps[:3, :3] / spacing
    left, _, right = np.linalg.svd(axes)
    straight = left @ right
    if np.abs(straight - axes).max() > SHEAR:
        raise InputError("its slices are sheared (gantry tilt): resample it to a straight grid")
    # A transposed copy: SimpleITK counts axes in the opposite order.
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(straight.ravel().tolist())
    return image


def to_world(image: Any, index: Array) -> npt.NDArray[np.float64]:
    """Voxel indices (N, 3) of a SimpleITK image to LPS mm."""
    matrix = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    return index @ matrix.T + np.asarray(image.GetOrigin())


def to_index(image: Any, points: Array) -> npt.NDArray[np.float64]:
    """LPS mm (N, 3) to fractional voxel indices of a SimpleITK image."""
    matrix = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    return (points - np.asarray(image.GetOrigin())) @ np.linalg.inv(matrix).T


def shrink(image: Any, spacing: float) -> Any:
    """Average whole voxels together up to about `spacing` mm an axis."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    size = image.GetSize()
    factors = [
        min(max(1, int(spacing / edge + 0.3)), max(1, n // 2))
        for edge, n in zip(image.GetSpacing(), size, strict=True)
    ]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def background_of(array: Array) -> float:
    """The value outside the head: the commonest on the volume's faces, else the lowest.

    A volume that a head or noise fills to its faces has no such value.
    """
    faces = np.concatenate([array.take((0, -1), axis=axis).ravel() for axis in range(3)])
    values, counts = np.unique(faces, return_counts=True)
    commonest = int(counts.argmax())
    if counts[commonest] >= 0.3 * faces.size and values[commonest] < np.median(
        array[array > array.min()]
    ):
        return float(values[commonest])
    return float(min(array.min(), 0)) if array.min() < 0 else 0.0


def _foreground(image: Any) -> Any:
    """Mask of the brain or head at about 4 mm; `image` has background 0."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    coarse = shrink(image, _COARSE)
    smooth = sitk.GetArrayFromImage(coarse)
    low, high = np.percentile(smooth, [2, 98])
    inside = smooth > max(low, 0) + 0.1 * (high - max(low, 0))  # the threshold of FSL's BET
    exact = sitk.GetArrayFromImage(shrink(sitk.Cast(image != 0, sitk.sitkFloat32), _COARSE))
    stripped = exact >= 0.5
    # Outside a stripped brain all is 0; around a head there is noise.
    if np.count_nonzero(stripped & inside) > 0.6 * np.count_nonzero(stripped):
        inside = stripped
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(coarse)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True)
    mask = sitk.Cast(sitk.BinaryFillhole(parts == 1), sitk.sitkUInt8)
    array = sitk.GetArrayFromImage(mask)
    index = np.argwhere(array > 0)[:, ::-1]
    if len(index):
        height = to_world(mask, index)[:, 2]
        low_part = index[height < height.max() - HEAD_MM]
        array[low_part[:, 2], low_part[:, 1], low_part[:, 0]] = 0
    kept = sitk.GetImageFromArray(array)
    kept.CopyInformation(mask)
    return kept


def same_grid(first: Path, second: Path) -> bool:
    """Whether two files state one grid, to 0.1 mm at its corners, in any order of voxels."""
    one, other = read_header(first), read_header(second)
    empty = np.broadcast_to(np.uint8(0), one.shape)
    return onto_grid(empty, one.affine, other.affine, other.shape) is not None
