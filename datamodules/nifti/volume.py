"""A NIfTI file in memory, read in one go.

The whole file is inflated by one call of zlib, which also verifies its checksum: three times as
fast as nibabel's stream, and a truncated or damaged file cannot pass for a shorter one. Whether a
file is compressed is decided by its first bytes, never by its name, here and for headers alone.
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

from datamodules.nifti.formats import conversion, foreign_format
from datamodules.nifti.position import position_of
from errors import InputError

# Errors that nibabel raises for a truncated or invalid header.
_BROKEN = (HeaderDataError, WrapStructError, nib.spatialimages.ImageDataError)
_MOST_VOXELS = 2**36  # more is a damaged header: a head at 0.1 mm has 2**33
_HEADER_BYTES = 540  # of NIfTI-2; version 1 has 348


class Volume:
    """Voxels of a 3-D or 4-D NIfTI file with the geometry that its header states.

    Attributes:
        array: Voxels in file order, scaled where the header says so; read-only.
        affine: (4, 4) voxel index to mm.
        header: The header's bytes, for writing on the same grid; empty for NIfTI-2.
        notices: Faults of the header, and how it was read despite them.
    """

    def __init__(
        self,
        array: npt.NDArray[Any],
        affine: npt.NDArray[np.float64],
        header: bytes,
        notices: tuple[str, ...] = (),
    ) -> None:
        self.array = array
        self.affine = affine
        self.header = header
        self.notices = notices

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm, in file order."""
        edges = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        return (float(edges[0]), float(edges[1]), float(edges[2]))


class Header:
    """Shape and geometry of a NIfTI file's voxels, from its header.

    Attributes:
        stated: nibabel's header.
        shape: Axes of the array, last axes of length 1 left out beyond the third.
        affine: (4, 4) voxel index to mm.
        notices: Faults of the header, and how it was read despite them.
    """

    def __init__(self, stated: Any) -> None:
        shape = tuple(int(n) for n in stated.get_data_shape())
        offset = int(stated.get_data_offset())
        if not shape or min(shape) < 1 or offset < 0 or math.prod(shape) > _MOST_VOXELS:
            raise HeaderDataError(f"its header says shape {shape} from byte {offset}")
        self.stored_shape = shape
        self.shape = _trimmed(shape)
        self.offset = offset
        self.affine, self.stated, self.notices = position_of(stated)


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file, compressed or not.

    Raises:
        InputError: The file is missing, truncated, damaged or not NIfTI.
    """
    raw = inflate(path)
    header = _parse(raw, path)
    stated = header.stated
    dtype = stated.get_data_dtype()
    if dtype.kind not in "iuf":
        kinds = {"c": "complex numbers", "V": "colours"}
        raise InputError(
            f"{path} holds {kinds.get(dtype.kind, dtype)}: expected a grey value a voxel, export "
            "the magnitude or grey image."
        )
    needed = header.offset + math.prod(header.stored_shape) * dtype.itemsize
    if len(raw) < needed:
        raise InputError(
            f"{path} is truncated ({len(raw)} of {needed} bytes): copy or download it again."
        )
    array: npt.NDArray[Any] = np.ndarray(
        header.stored_shape, dtype, buffer=raw, offset=header.offset, order="F"
    )
    slope, intercept = stated.get_slope_inter()
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        with np.errstate(over="ignore"):  # infinite voxels are reported later
            array = array * np.float32(slope) + np.float32(intercept or 0.0)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array = array.reshape(header.shape, order="F")
    version_1 = stated.sizeof_hdr == 348
    return Volume(array, header.affine, stated.binaryblock if version_1 else b"", header.notices)


def read_header(path: Path) -> Header:
    """Read the header of a NIfTI file and none of its voxels.

    Raises:
        InputError: The file is missing or not NIfTI.
    """
    return _parse(inflate(path, _HEADER_BYTES), path)


def _parse(raw: bytes, path: Path) -> Header:
    """The header at the start of a file's content."""
    # The first number of a NIfTI header is its own size: 348, or 540 in version 2.
    sizes = (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
    size = next((size for size in sizes if size in (348, 540)), None)
    foreign = "" if size else foreign_format(raw, path)
    if size == 348 and raw[344:347] != b"n+1" and path.suffix.lower() == ".hdr":
        foreign = f"is the header of a .hdr/.img pair: {conversion(path)}"
    if foreign:
        raise InputError(f"{path} {foreign}.")
    try:
        if size is None:
            raise HeaderDataError("it has no NIfTI header")
        kind: Any = nib.Nifti1Header if size == 348 else nib.Nifti2Header
        stated = kind.from_fileobj(io.BytesIO(raw[:size]), check=False)
        if not stated.get_data_dtype().itemsize:
            raise HeaderDataError(f"voxel type {int(stated['datatype'])} is unknown")
        stated.get_slope_inter()
        return Header(stated)
    except (*_BROKEN, ValueError, KeyError, OverflowError) as error:
        raise InputError(
            f"{path} is not a NIfTI image ({error}): expected .nii or .nii.gz, export it again."
        ) from error


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of length 1 beyond the third: the time of vectors, single channels."""
    return (*shape[:3], *(n for n in shape[3:] if n > 1))


def inflate(path: Path, enough: int = 0) -> bytes:
    """The file's bytes, decompressed where they are gzip; `enough` of them where it is not 0."""
    try:
        with path.open("rb") as file:
            raw = file.read(64 * enough if enough else -1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file.") from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    parts, rest = [], raw
    try:
        if enough:
            return zlib.decompressobj(wbits=31).decompress(raw, enough)
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
