"""Fixtures that write tiny patients in BraTS layout."""

from pathlib import Path

import pytest

from tests.datamodules.tiny_patients import LPS, SHAPE, make_volumes, save


@pytest.fixture
def write_case():
    """Write one BraTS 2021 case: `write_case(root, number, seed=..., affine=..., labelled=...)`."""

    def write(root, number, *, seed=None, affine=LPS, shape=SHAPE, labelled=True, case_id=None):
        case_id = case_id or f"BraTS2021_{number:05d}"
        images, label = make_volumes(number if seed is None else seed, shape)
        for modality, array in images.items():
            save(array, Path(root) / case_id / f"{case_id}_{modality}.nii.gz", affine)
        if labelled:
            save(label, Path(root) / case_id / f"{case_id}_seg.nii.gz", affine)
        return Path(root) / case_id

    return write


@pytest.fixture
def cohort(tmp_path, write_case):
    """Folder of six BraTS 2021 cases."""
    for number in range(6):
        write_case(tmp_path / "cohort", number)
    return tmp_path / "cohort"
