"""A case in memory while it is examined: its volumes, and their problems."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.nifti.geometry import bounding_box, canonical_view, orientation_of
from datamodules.nifti.volume import Volume

Array = npt.NDArray[Any]


class Reading:
    """A case in memory: its volumes, their problems, and their digests.

    Attributes:
        images: Modality to volume, on the grid of the first, the background shifted to 0.
        label: Label map, whole numbers, or None.
        values: Those of the label other than 0.
        brain: Voxels where any modality is not background; of a whole head, the head.
        modality_hashes: Modality to digest of its voxels; filled for a case without problems.
        shows_head: Whether the images show skull and skin, and that was allowed.
        problems: Why the case cannot be used; empty when it can.
        notices: Notices for the user about a usable case.
    """

    def __init__(self, case: CaseFiles) -> None:
        self.case = case
        self.images: dict[str, Volume] = {}
        self.label: Array | None = None
        self.values: set[int] = set()
        self.brain: npt.NDArray[np.bool_] | None = None
        self.shows_head = False
        self.modality_hashes: dict[str, str] = {}
        self.problems: list[str] = []
        self.notices: list[str] = list(case.notices)

    @property
    def reference(self) -> Volume:
        """The volume whose grid stands for the case."""
        return next(iter(self.images.values()))

    def content_hash(self) -> str:
        """Digest of the voxel values in canonical order, independent of name, type, compression.

        Taken over the brain box, so a zero margin cut off elsewhere does not hide a patient.
        """
        hashes = self.modality_hashes or self.hash_modalities()
        return combine(hashes.get(modality, f"no {modality}") for modality in MODALITIES)

    def hash_modalities(self) -> dict[str, str]:
        """Digest of each modality in the brain box, in canonical order."""
        assert self.brain is not None  # set by `examine` for every case without problems
        orientation = orientation_of(self.reference.affine)
        start, size = bounding_box(canonical_view(self.brain, orientation))
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))

        def part(volume: Volume) -> str:
            return digest(canonical_view(volume.array, orientation)[box])

        with ThreadPoolExecutor(len(MODALITIES)) as pool:
            return dict(zip(self.images, pool.map(part, self.images.values()), strict=True))

    def label_hash(self) -> str:
        """Digest of the label map in canonical order; empty when there is none."""
        if self.label is None:
            return ""
        return digest(canonical_view(self.label, orientation_of(self.reference.affine)))


def digest(array: Array) -> str:
    """Digest of an array's values and shape; whole numbers digest alike in every type."""
    if array.dtype.kind == "f":
        whole = np.rint(array)
        array = whole if np.array_equal(whole, array) else array.astype(np.float32)
    if array.size and array.dtype.kind in "fiu" and not _fractional(array):
        small = array.min() >= -32768 and array.max() <= 32767
        array = array.astype(np.int16 if small else np.int64)
    state = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    # Canonical views of NIfTI arrays are Fortran-ordered: their transpose is cheap to lay out.
    state.update(np.ascontiguousarray(array.T).data)
    return state.hexdigest()


def combine(parts: Any) -> str:
    """One digest of several."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _fractional(array: Array) -> bool:
    return array.dtype.kind == "f" and not np.array_equal(np.rint(array), array)
