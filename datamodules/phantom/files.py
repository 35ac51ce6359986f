"""Files of phantom patients, in the naming and label values of a BraTS year.

Every file is marked SYNTHETIC: in the NIfTI header's description, and by a note beside them.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.phantom.fields import Grid
from errors import InputError
from files import write_atomically

ATLAS_MM = (240, 240, 155)  # the grid of every BraTS year, 1 mm, LPS
_NOTE = """SYNTHETIC DATA

Everything below this folder is a computer simulation (gliofuse digital glioma phantom, version
{version}, seed {seed}, layout {layout}, {spacing:g} mm). There is no patient behind any file.
Do not mix it with clinical data, and do not use it for diagnosis.

Anatomy: ICBM152 2009a nonlinear symmetric tissue maps, (C) 1993-2004 Louis Collins, McConnell Brain
Imaging Centre, Montreal Neurological Institute, McGill University; as bundled with nilearn.
Made again, byte for byte, by: lightning phantom --out DIR --patients N --seed {seed} \
--layout {layout} --spacing {spacing:g}
"""


@dataclass(frozen=True)
class Layout:
    """Naming of one BraTS year; `{id}` is the case id."""

    case_id: str
    separator: str
    suffixes: Mapping[str, str]
    enhancing: int  # label value of enhancing tumour; necrosis is 1 and oedema 2 in every year
    graded: bool = False  # patients below HGG/ and LGG/

    def case(self, index: int) -> str:
        """Case id of the index-th phantom, counted from 0."""
        return self.case_id.format(index + 1)

    def folder(self, index: int, enhancing: bool) -> Path:
        """Folder of a patient below the cohort's root."""
        case = Path(self.case(index))
        return (Path("HGG" if enhancing else "LGG") / case) if self.graded else case


_OLD = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg"}
_NEW = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
# Numbers from 90001 on are in no BraTS release.
LAYOUTS: dict[str, Layout] = {
    "brats2018": Layout("Brats18_SYN_{:03d}_1", "_", _OLD, 4, graded=True),
    "brats2021": Layout("BraTS2021_9{:04d}", "_", _OLD, 4),
    "brats2023": Layout("BraTS-GLI-9{:04d}-000", "-", _NEW, 3),
}


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray, note: str) -> None:
    """Write a gzipped NIfTI whose bytes depend on its content only (no time, no file name)."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode()[:79]
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def to_atlas(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Put a (right, anterior, superior) box into the middle of the atlas grid, LPS, with affine."""
    shape = [max(round(n / grid.spacing), b) for n, b in zip(ATLAS_MM, grid.shape, strict=True)]
    full = np.zeros(shape, array.dtype)
    start = [(n - b) // 2 for n, b in zip(shape, grid.shape, strict=True)]
    full[tuple(slice(s, s + b) for s, b in zip(start, grid.shape, strict=True))] = array
    affine = np.diag([-grid.spacing, -grid.spacing, grid.spacing, 1.0])
    affine[1, 3] = (shape[1] - 1) * grid.spacing  # 239 mm at 1 mm, as in the released files
    return np.ascontiguousarray(full[::-1, ::-1]), affine


def write_brats_case(
    folder: Path,
    case_id: str,
    layout: Layout,
    images: Mapping[str, np.ndarray],
    label: np.ndarray,
    grid: Grid,
    note: str,
) -> None:
    """Write four modalities and the label of one patient into `folder`, which must exist."""
    values = np.array([0, 1, 2, layout.enhancing], np.uint8)
    for name, array in {**images, "seg": values[label]}.items():
        atlas, affine = to_atlas(array, grid)
        file = f"{case_id}{layout.separator}{layout.suffixes[name]}.nii.gz"
        save_nifti(folder / file, atlas, affine, note)


def write_cohort_note(out: Path, settings: Mapping[str, object]) -> None:
    """Write the note and the settings that made the cohort, each in one step.

    Raises:
        InputError: another file has the name of one of them.
    """
    for name, text in (
        ("SYNTHETIC.txt", _NOTE.format(**settings)),
        ("phantom.json", json.dumps({"SYNTHETIC": True, **settings}, indent=1) + "\n"),
    ):
        path = out / name
        if not path.exists():
            write_atomically(path, text)
        elif path.read_text(encoding="utf-8", errors="replace") != text:
            raise InputError(
                f"{path} is not what this program writes there, and would be written over: name a "
                "folder that is new or empty."
            )
