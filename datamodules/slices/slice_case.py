"""One prepared patient as axial slices, and the way back to the grid of its files."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datamodules.cases.case import PreparedCase, unlabelled
from datamodules.cases.intensity import BACKGROUND, NORMALISATION_VERSION
from datamodules.cases.settings import from_slices, to_slices
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.layouts.conventions import REGIONS
from datamodules.nifti.geometry import canonical_view
from datamodules.registration.folder import REGISTERED

Array = npt.NDArray[Any]


class SliceCase(PreparedCase):
    """A prepared case whose slices are padded to squares, the brain box in their middle.

    Slices lie across the last axis of the prepared grid, which keeps the file's slice distance:
    slice `s` of either grid shows the same place.

    Args:
        files: Files of the examination.
        folder: Its folder in the cache, prepared by slice.
        slice_size: Pixels along either side.
        regions: The regions that are segmented, the first of WT, TC and ET.

    Attributes:
        slice_size: Pixels along either side.
        tumour_area: Pixels of tumour in every slice; empty without a label.
        brain_area: Pixels of brain in every slice.
    """

    _modality_axis = 1

    def __init__(
        self,
        files: CaseFiles,
        folder: Path,
        slice_size: int,
        regions: Sequence[str] = REGIONS[:1],
    ) -> None:
        super().__init__(files, folder)
        self.regions = tuple(regions)
        areas = self.described["areas"]
        self.slice_size = slice_size
        self._maps: dict[str, torch.Tensor] = {}
        self.brain_area: list[int] = areas["brain"]
        self.tumour_area: list[int] = areas.get("tumour", [])
        across, along, _ = self.shape
        self._place = tuple((slice_size - n) // 2 for n in (along, across))
        pixels: list[Any] = [self.content_hash, self.described["geometry"], self.described["form"]]
        pixels += [NORMALISATION_VERSION, BACKGROUND, slice_size]
        self._pixels = hashlib.sha256(json.dumps(pixels).encode()).hexdigest()

    @property
    def slices(self) -> int:
        """Number of slices S."""
        return self.shape[2]

    @property
    def native_pixel(self) -> tuple[float, float]:
        """Distance in mm of the rows, and of the columns, of `native_slices`."""
        across, along, _ = self.geometry.native_spacing
        return along, across

    def problem(self) -> str:
        """Why the case cannot be cut into slices of this size; empty when it can."""
        if self.slices < 2:
            return "it has one slice only, expected a volume of several"
        largest = max(self.shape[:2])
        if largest <= self.slice_size:
            return ""
        mm = largest * self.spacing[0]
        spacing = np.ceil(100 * mm / self.slice_size) / 100
        return (
            f"its brain box measures {mm:.0f} mm, more than {self.slice_size} pixels of "
            f"{self.spacing[0]:g} mm: set data.slice_size to {-(-largest // 16) * 16} or "
            f"data.spacing to {spacing:g}"
        )

    def slice_hash(self, index: int) -> str:
        """Digest of a slice's pixels as the files hold them: equal only for equal pixels."""
        return f"{self._pixels[:32]}-{index}"

    def slice_key(self, index: int) -> str:
        """Digest of an unaugmented slice's pixels, with dropped modalities blanked."""
        return "-".join([self.slice_hash(index), *self.dropped])

    @property
    def image(self) -> npt.NDArray[np.float16]:
        """Memory map (4, R, A, S) of z-scores; changes to it stay in memory."""
        return from_slices(super().image)

    @property
    def label(self) -> npt.NDArray[np.uint8] | None:
        """Memory map (R, A, S) of the canonical label map, or None."""
        stored = super().label
        return None if stored is None else from_slices(stored)

    def mask(self) -> npt.NDArray[np.float32]:
        """The regions on the prepared grid: (regions, R, A, S), 0 or 1."""
        return super().mask()[: len(self.regions)]

    def padded_images(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Slices `first` to `last` (excluded) as (S, 4, H, W) float16."""
        return self._padded(self._opened("image")[first:last], BACKGROUND)

    def padded_labels(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Canonical labels of slices `first` to `last` (excluded) as (S, H, W) uint8."""
        if not self.labelled:
            raise unlabelled(self.case_id)
        return self._padded(self._opened("label")[first:last], 0)

    def _padded(self, stored: torch.Tensor, fill: float) -> torch.Tensor:
        size = (*stored.shape[:-2], self.slice_size, self.slice_size)
        padded = torch.full(size, fill, dtype=stored.dtype)
        padded[self._inside()].copy_(stored)
        return padded

    def _opened(self, name: str) -> torch.Tensor:
        """A stored array, mapped once, because opening it takes longer than reading a slice."""
        if name not in self._maps:
            stored = np.load(self.folder / f"{name}.npy", mmap_mode="c")
            if name == "image":
                stored = self._blanked(stored)
            self._maps[name] = torch.from_numpy(stored)
        return self._maps[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # each loader process maps the files itself

    def from_slices(self, values: Any) -> Array:
        """Slices (S, R, H, W), a tensor on the CPU or an array, to the prepared grid (R, *RAS)."""
        array = np.asarray(values)
        if array.shape[0] != self.slices or array.shape[2:] != (self.slice_size,) * 2:
            raise ValueError(
                f"shape {array.shape} is not {self.slices} slices of {self.slice_size} pixels"
            )
        return from_slices(array[self._inside()])

    def to_native(self, probabilities: Any) -> npt.NDArray[np.float32]:
        """Slices (S, R, H, W) to the grid of the files (R, *native_shape).

        Linear interpolation within the slices; 0 outside the brain box.

        Args:
            probabilities: A float tensor on the CPU, or an array.
        """
        return super().to_native(self.from_slices(probabilities))

    def native_regions(self) -> npt.NDArray[np.bool_]:
        """The regions of the original label file: (regions, *native_shape)."""
        return super().native_regions()[: len(self.regions)]

    def native_slices(self, volume: Array) -> Array:
        """Slices of a volume (*native_shape) that match the prepared ones: (S, rows, columns).

        They are uncropped, in the file's own pixels, and oriented as the prepared ones.
        """
        first = self.geometry.start[2]
        shown = to_slices(canonical_view(volume, self.geometry.orientation))
        return shown[first : first + self.slices]

    def names_on_modalities(self, label_name: str) -> dict[str, str]:
        """Names of a label map on the other modalities' own grids; none where all grids are equal.

        Args:
            label_name: Name of the label map on T2's grid; ends in ``.nii`` or ``.nii.gz``.
        """
        if self.layout != REGISTERED:
            return {}
        stem = label_name.removesuffix(".gz").removesuffix(".nii")
        apart = [m for m in MODALITIES if m != "t2" and m not in self.missing]
        return {modality: f"{stem}_on_{modality}.nii.gz" for modality in apart}

    def save_on_modality(
        self, label_file: Path, modality: str, out: Path, remark: str = ""
    ) -> None:
        """Write a label map that lies on T2's grid on the own grid of another modality."""
        from datamodules.registration.folder import labels_on_modality

        folder = self.files.images["t2"].path.parent
        labels_on_modality(label_file, folder, modality, out, remark)

    def save_on_modalities(self, label_file: Path) -> list[Path]:
        """Write a label map that lies on T2's grid beside it on the other modalities' own grids.

        Args:
            label_file: Ends in ``.nii`` or ``.nii.gz``.

        Returns:
            The files written; none where all grids are equal.
        """
        written = []
        for modality, name in self.names_on_modalities(label_file.name).items():
            written.append(label_file.with_name(name))
            self.save_on_modality(label_file, modality, written[-1])
        return written

    def _inside(self) -> tuple[Any, ...]:
        """Index of the brain box in padded slices (..., H, W)."""
        across, along, _ = self.shape
        top, left = self._place
        return (..., slice(top, top + along), slice(left, left + across))
