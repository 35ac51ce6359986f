"""Where the patients of the 2-D study come from: a registered folder, BraTS, or raw exams."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from datamodules.integrity import AFFINE_TOLERANCE
from datamodules.layouts import LAYOUTS, MODALITIES, CaseFiles, nifti_files

Source = Literal["auto", "brats", "registered", "exams"]
_NIFTI = re.compile(r"\.nii(\.gz)?$")


def source_of(root: Path, layout: str | None) -> Source:
    """What a folder holds, by its names.

    Args:
        root: Folder of the cohort.
        layout: Name or description of a BraTS-like layout, which settles it.
    """
    from datamodules.registration import is_registered

    if layout is not None:
        return "brats"
    if is_registered(root):
        return "registered"
    collection = root.parent if root.name in ("imagesTr", "imagesTs") else root
    if (collection / "imagesTr").is_dir() or (collection / "imagesTs").is_dir():
        return "brats"
    return "brats" if any(map(_named_as_brats, nifti_files(root))) else "exams"


def _named_as_brats(path: Path) -> bool:
    stem = _NIFTI.sub("", path.name)
    for years in LAYOUTS.values():
        case_id, separator, suffix = stem.rpartition(years.separator)
        if separator and suffix.lower() in years.suffixes:
            return bool(re.match(years.prefix, case_id, re.IGNORECASE))
    return False


def on_one_grid(images: Mapping[str, str]) -> bool:
    """Whether the four files of a patient lie on one grid already, by their headers."""
    if set(images) != set(MODALITIES):
        return False
    try:
        headers: list[Any] = [
            nib.load(Path(images[modality]).expanduser()) for modality in MODALITIES
        ]
    except (OSError, nib.filebasedimages.ImageFileError):
        return False  # whoever reads them says what is wrong
    first = headers[0]
    return all(
        header.shape == first.shape
        and np.allclose(header.affine, first.affine, atol=AFFINE_TOLERANCE / max(first.shape))
        for header in headers[1:]
    )


def on_t2(case: CaseFiles) -> CaseFiles:
    """The case with T2 in front, whose grid and header then stand for it."""
    first = [modality for modality in ("t2", *MODALITIES) if modality in case.images]
    return replace(case, images={modality: case.images[modality] for modality in first})


def named_phantom(case: CaseFiles, seed: int) -> CaseFiles:
    """A phantom's exam under the name that the same patient has in the first study's cohort."""
    name = f"phantom-{seed}-{int(case.case_id[-3:]):04d}"
    return replace(case, case_id=name, patient_id=name)
