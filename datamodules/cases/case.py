"""One prepared case: its arrays for training, and the way back to the grid of its files."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from datamodules.cases.intensity import BACKGROUND
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.layouts.conventions import CANONICAL
from datamodules.nifti.geometry import Geometry
from datamodules.nifti.grids import onto_grid
from datamodules.nifti.headers import blanked, image_like, is_synthetic
from datamodules.nifti.label_map import small_labels
from datamodules.nifti.volume import Volume, read_volume
from errors import InputError
from files import write_atomically

Array = npt.NDArray[Any]


class PreparedCase:
    """One examination out of the cache; its arrays are opened on use and not held.

    Attributes:
        case_id: Name of the examination.
        patient_id: Name of the patient, shared by the examinations of one patient.
        spacing: mm of the prepared grid, canonical order.
        content_hash: Digest of the images' voxel values.
        label_hash: Digest of the label's; empty without one.
        convention: Meaning of the label values in the original files.
        prediction_name: File name of a prediction in the case's own layout.
        layout: Name of the layout the case was found in.
        brain_ml: Volume of the brain in ml.
        notices: Notices for the user.
        described: The record that the cache keeps beside the arrays.
        native_shape: Grid of the original files, file order.
        native_affine: (4, 4) of the original files.
        native_spacing: mm of the original files, file order.
        dropped: Modalities to be shown as background, whatever their files hold.
    """

    _modality_axis = 0  # of the stored image

    def __init__(self, files: CaseFiles, folder: Path) -> None:
        described: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.described = described
        self.files = files
        self.folder = folder
        self.case_id = files.case_id
        self.patient_id = files.patient_id
        self.convention = files.convention
        self.prediction_name = files.prediction_name
        self.layout = files.layout
        self.geometry = Geometry.from_dict(described["geometry"])
        self.spacing: tuple[float, ...] = self.geometry.spacing
        self.content_hash: str = described["content"]
        self.label_hash: str = described["label"]
        self.brain_ml: float = described["brain_ml"]
        self.notices: list[str] = [*files.notices] + [
            notice for notice in described["notices"] if notice not in files.notices
        ]
        self.native_affine: npt.NDArray[np.float64] = np.array(described["affine"])
        self.native_shape = self.geometry.native_shape
        edges = np.sqrt((self.native_affine[:3, :3] ** 2).sum(0))
        self.native_spacing = tuple(float(edge) for edge in edges)
        self.dropped: tuple[str, ...] = ()
        header = bytes.fromhex(described["header"])
        self._header = blanked(header)  # caches of earlier versions hold the source's text
        self._synthetic = bool(described.get("synthetic", is_synthetic(header)))

    def __repr__(self) -> str:
        return f"PreparedCase({self.case_id!r}, {'x'.join(map(str, self.shape))})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the prepared grid (d, h, w)."""
        return self.geometry.shape

    @property
    def native_orientation(self) -> str:
        """Directions of the axes of the files, such as LPS."""
        return "".join(nib.aff2axcodes(self.native_affine))

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities without a file, filled with the background."""
        return tuple(modality for modality in MODALITIES if modality not in self.files.images)

    @property
    def modality_hashes(self) -> dict[str, str]:
        """Digest of each modality's voxels, where the cache wrote them beside the arrays."""
        return dict(self.described.get("modalities") or {})

    @property
    def synthetic(self) -> bool:
        """Whether the files' headers mark them as a phantom's."""
        return self._synthetic

    @property
    def labelled(self) -> bool:
        """Whether the case has a label map."""
        return bool(self.label_hash)

    @property
    def label_values(self) -> set[int]:
        """Values of the original label file other than 0; none without a label."""
        if self.labelled and "values" not in self.described:  # prepared by an older version
            self.described["values"] = [int(v) for v in np.unique(self._native_label()) if v]
        return set(self.described.get("values", ()))

    @property
    def image(self) -> npt.NDArray[np.float16]:
        """Memory map (4, d, h, w) of z-scores; changes to it stay in memory."""
        return self._blanked(np.load(self.folder / "image.npy", mmap_mode="c"))

    def _blanked(self, image: Array) -> Array:
        """The stored image with the dropped modalities filled with the background."""
        for modality in self.dropped:
            image.swapaxes(0, self._modality_axis)[MODALITIES.index(modality)] = BACKGROUND
        return image

    @property
    def label(self) -> npt.NDArray[np.uint8] | None:
        """Memory map (d, h, w): 0 background, 1 necrosis, 2 oedema, 3 enhancing; or None."""
        if not self.labelled:
            return None
        return np.load(self.folder / "label.npy", mmap_mode="c")

    @property
    def samples(self) -> npt.NDArray[np.int16]:
        """Voxels of each region, for drawing patch centres: (4, n, 3), WT, TC, ET, elsewhere."""
        return np.load(self.folder / "samples.npy", mmap_mode="r")

    def mask(self) -> npt.NDArray[np.float32]:
        """Regions WT, TC, ET on the prepared grid: (3, d, h, w), 0 or 1."""
        return CANONICAL.to_regions(np.asarray(self._labelled())).astype(np.float32)

    def _labelled(self) -> npt.NDArray[np.uint8]:
        label = self.label
        if label is None:
            raise unlabelled(self.case_id)
        return label

    def native_regions(self) -> npt.NDArray[np.bool_]:
        """Regions of the original label file: (3, *native_shape)."""
        return self.convention.to_regions(self._native_label())

    def _native_label(self) -> Array:
        if self.files.label is None:
            raise unlabelled(self.case_id)
        volume = read_volume(self.files.label)
        labels = small_labels(volume.array, str(self.files.label))
        return self._native(labels, volume, self.files.label)

    def native_image(self, modality: str) -> npt.NDArray[np.float32]:
        """One modality as its file holds it: (*native_shape); zeros where it is missing.

        Args:
            modality: One of t1, t1ce, t2, flair.
        """
        if modality not in MODALITIES:
            raise ValueError(f"modality {modality!r} is none of {', '.join(MODALITIES)}")
        if modality in self.missing:
            return np.zeros(self.native_shape, np.float32)
        file = self.files.images[modality]
        volume = read_volume(file.path)
        array = volume.array if file.channel is None else volume.array[..., file.channel]
        return np.asarray(self._native(array, volume, file.path), np.float32)

    def _native(self, array: Array, volume: Volume, path: Path) -> Array:
        """Voxels of a file of the case, in the case's voxel order."""
        turned = onto_grid(array, volume.affine, self.native_affine, self.native_shape)
        if turned is None:
            raise InputError(f"{path} changed its grid since it was read: run the command again.")
        return turned

    def to_native(self, probabilities: Any) -> npt.NDArray[np.float32]:
        """Prepared grid (R, d, h, w) to the grid of the files (R, *native_shape).

        Linear interpolation; 0 outside the brain box.

        Args:
            probabilities: A float tensor on the CPU, or an array.
        """
        array = np.asarray(probabilities, np.float32)
        if array.shape[1:] != self.shape:
            raise ValueError(f"shape {array.shape[1:]} is not the prepared grid {self.shape}")
        return self.geometry.to_native(array)

    def save_native(self, array: Array, path: str | Path, dtype: Any, remark: str = "") -> None:
        """Write NIfTI on the grid and affine of the files, whole or not at all.

        Of the header of the files only the grid is kept: no name, no comment, no extension.

        Args:
            array: Values in file order, (*native_shape) or with one last axis more.
            path: Ends in ``.nii`` or ``.nii.gz``.
            dtype: Type of the voxels in the file.
            remark: Fixed words for the header, about the origin of the values.
        """
        path = Path(path)
        values = np.asarray(array).astype(dtype)
        if values.shape[:3] != self.native_shape or values.ndim > 4:
            raise ValueError(f"shape {values.shape} is not the native grid {self.native_shape}")
        marks: dict[str, Any] = {"synthetic": self.synthetic, "remark": remark}
        image = image_like(self._header, self.native_affine, values, **marks)
        write_atomically(path, lambda file: nib.save(image, file))


def unlabelled(case_id: str) -> InputError:
    """Return the error for scoring a case without a label."""
    return InputError(f"{case_id} has no label: it can be predicted, not scored.")
