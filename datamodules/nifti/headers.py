"""NIfTI headers without text that may name a person.

Scanners and converters leave names, birth dates and comments in the free-text fields and in header
extensions. Whatever this program writes keeps the grid of its source, never its text.
"""

import gzip
import io
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from datamodules.nifti.volume import inflate

SYNTHETIC = b"SYNTHETIC"  # stands in the header of every file of a phantom
MARK = b"SYNTHETIC: simulated, no patient"  # in files that are made from a phantom
# In predictions of a network that saw no real patient; a header takes 80 bytes of text.
SYNTHETIC_TRAINING = "trained on synthetic patients only; research"

_NOTE = re.compile(rb"SYNTHETIC gliofuse phantom v\d+ seed \d+ patient \d+")  # in a phantom's own
_TEXT = ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str")
# Numeric fields that do not describe the grid.
_NUMBERS = (
    *("intent_code", "intent_p1", "intent_p2", "intent_p3"),
    *("extents", "session_error", "glmax", "glmin", "cal_max", "cal_min", "toffset"),
)


def is_synthetic(header: bytes) -> bool:
    """Whether a header marks its file as simulated."""
    return SYNTHETIC in header


def trained_on_synthetic(header: bytes) -> bool:
    """Whether a header marks its file as predicted by a network that saw no real patient."""
    return SYNTHETIC_TRAINING.encode() in header


def blank(header: Any, *, synthetic: bool, remark: str = "") -> Any:
    """Empty a nibabel header's free text and all that does not describe the grid; return it.

    Args:
        header: a NIfTI-1 or NIfTI-2 header, changed in place.
        synthetic: whether to mark it, in fixed words, as a phantom's.
        remark: fixed words about the origin of the voxels.
    """
    known, note = header.template_dtype.names, header["descrip"].tobytes().rstrip(b"\0")
    for field in _TEXT:
        if field in known:
            header[field] = b""
    for field in _NUMBERS:
        if field in known:
            header[field] = 0
    if remark:
        header["descrip"] = b"; ".join([*[MARK] * synthetic, remark.encode()])
    elif synthetic:
        header["descrip"] = note if _NOTE.fullmatch(note) else MARK
    header.extensions.clear()
    return header


def blanked(header: bytes) -> bytes:
    """Return the bytes of a NIfTI-1 header without free text; empty ones stay empty."""
    if not header:
        return header
    found = nib.Nifti1Header(header, check=False)
    whole: bytes = blank(found, synthetic=is_synthetic(header)).binaryblock
    return whole


def image_like(
    header: bytes,
    affine: npt.NDArray[np.float64],
    values: npt.NDArray[Any],
    *,
    synthetic: bool,
    remark: str = "",
) -> Any:
    """Return a NIfTI-1 image on the grid of a header, its sform and qform equal to the last bit.

    Args:
        header: 348 bytes; empty: of NIfTI-2, whose affine is taken.
        affine: (4, 4) voxel index to mm.
        values: 3-D, or 4-D with the grid first.
        synthetic: whether to mark the file as a phantom's.
        remark: fixed words about the origin of the values.
    """
    if header:
        found = blank(nib.Nifti1Header(header, check=False), synthetic=synthetic, remark=remark)
        found.set_data_shape(values.shape)
        found.set_data_dtype(values.dtype)
        found.set_slope_inter(1, 0)
        found["magic"] = b"n+1"
        found["vox_offset"] = 352
        # Passing no affine keeps sform and qform to the last bit.
        return nib.Nifti1Image(values, None, found)
    image = nib.Nifti1Image(values, affine)
    blank(image.header, synthetic=synthetic, remark=remark)
    return image


def without_text(path: Path) -> bytes:
    """Return a NIfTI file, gzipped, with its voxels untouched and its header without text.

    A gzip file without such text is returned unchanged.

    Raises:
        InputError: the file cannot be read, or is damaged.
    """
    raw = inflate(path)
    size = 348 if 348 in (int.from_bytes(raw[:4], order) for order in ("little", "big")) else 540
    kind: Any = nib.Nifti1Header if size == 348 else nib.Nifti2Header
    header = kind.from_fileobj(io.BytesIO(raw[:size]), check=False)
    start = int(header.get_data_offset())
    blank(header, synthetic=is_synthetic(raw[:size]))
    first = size + 4  # four zeros: no extension follows
    header["vox_offset"] = first
    whole: bytes = header.binaryblock + bytes(4) + raw[start:]
    packed = path.read_bytes()
    if whole == raw and packed[:2] == b"\x1f\x8b":
        return packed
    return gzip.compress(whole, compresslevel=4, mtime=0)
