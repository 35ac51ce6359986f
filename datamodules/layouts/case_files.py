"""The files of one examination, and the NIfTI files below a folder."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.layouts.conventions import LabelConvention
from errors import InputError

MODALITIES = ("t1", "t1ce", "t2", "flair")

NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)  # ends the name of an image
SEG = re.compile(r"[_-]seg$", re.IGNORECASE)  # ends the name of a mask that is not its case's
PROBABILITIES = "_probabilities"
_SYSTEM = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}  # of a disk, not readable


@dataclass(frozen=True)
class ImageFile:
    """One modality: a 3-D file, or one channel of a 4-D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class CaseFiles:
    """The files of one examination; `images` lacks the modalities that were not found.

    `place` is its path below the root, from which the patient is read; empty where the patient is
    stated otherwise.
    """

    case_id: str
    patient_id: str
    images: dict[str, ImageFile]
    label: Path | None
    convention: LabelConvention
    layout: str
    prediction_name: str
    notices: tuple[str, ...] = field(default=())
    place: str = ""


def probabilities_name(mask_name: str) -> str:
    """Name of the file of region probabilities beside a mask, ``<case>_probabilities.nii.gz``."""
    return f"{SEG.sub('', NIFTI.sub('', mask_name))}{PROBABILITIES}.nii.gz"


def nifti_files(root: Path) -> Iterator[Path]:
    """Every NIfTI file below `root`, links followed once, hidden files left out.

    Raises:
        InputError: A folder cannot be read, so its files would be left out silently.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable or move it away."
        ) from error

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SYSTEM)
        for name in sorted(names):
            if not name.startswith(".") and NIFTI.search(name):
                yield Path(folder, name)


def check_dropped(drop: Sequence[str]) -> None:
    """Refuse `data.drop` where it names no modality, or all of them.

    Raises:
        InputError: `drop` is one of both.
    """
    unknown = [name for name in drop if name not in MODALITIES]
    if unknown or set(drop) == set(MODALITIES):
        raise InputError(
            f"data.drop is {list(drop)}: expected some of {', '.join(MODALITIES)}, and one left."
        )
