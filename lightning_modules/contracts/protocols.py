"""Protocols of patients, data and models, as training modules and callbacks use them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.conventions import LabelConvention
from lightning_modules.contracts.settings import UseSettings


class NativeCase(Protocol):
    """A patient from the data module, which can be brought back to its original grid."""

    case_id: str
    files: CaseFiles
    layout: str
    prediction_name: str
    convention: LabelConvention
    brain_ml: float
    native_spacing: tuple[float, float, float]

    @property
    def native_orientation(self) -> str:
        """Directions of the file's axes, such as LPS."""

    @property
    def synthetic(self) -> bool:
        """Whether the patient is a phantom."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities without a file."""

    def to_native(self, probabilities: Tensor | np.ndarray) -> np.ndarray:
        """Bring probabilities of the prepared grid to the original one, (R, *native)."""

    def native_regions(self) -> np.ndarray:
        """Return the reference as booleans (R, *native) from the original label file."""

    def native_image(self, modality: str) -> np.ndarray:
        """Return one modality as stored in its file, (*native)."""

    def save_native(self, array: np.ndarray, path: Path, dtype: type, remark: str = "") -> None:
        """Write NIfTI on the original grid, with a remark in its header."""


class RegisteredCase(NativeCase, Protocol):
    """A patient whose modalities may have different grids."""

    def names_on_modalities(self, label_name: str) -> dict[str, str]:
        """Return names of a label map on the other modalities' grids by modality."""

    def save_on_modality(
        self, label_file: Path, modality: str, out: Path, remark: str = ""
    ) -> None:
        """Write a label map on the grid of another modality."""


class TrainingSlices(Protocol):
    """Data of the 2D study whose training slices can be read one by one."""

    cache_dir: Path
    train_dataloader: Callable[[], Any]


class Segmenter(Protocol):
    """A segmentation model as callbacks use it."""

    regions: tuple[str, ...]
    usage: UseSettings
    test_rows: list[dict[str, Any]]

    def map_channels(self) -> Mapping[str, Sequence[str]]:
        """Return the maps that the network can show, each with the names of its channels."""


class Monitored(Protocol):
    """A model whose checkpoint is selected by a score."""

    monitor: str
    monitor_mode: Literal["max", "min"]
    validation_cases: dict[str, dict[str, float]]
