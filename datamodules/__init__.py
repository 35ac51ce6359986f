"""Data modules: from patients' files to batches."""

from typing import Any

__all__ = ["BraTSPatchDataModule", "RegisteredSliceDataModule"]


def __getattr__(name: str) -> Any:
    """Import the data modules on first use: `datamodules.layouts.brats` alone needs no torch."""
    if name == "BraTSPatchDataModule":
        from datamodules.volumes.datamodule import BraTSPatchDataModule

        return BraTSPatchDataModule
    if name == "RegisteredSliceDataModule":
        from datamodules.slices.datamodule import RegisteredSliceDataModule

        return RegisteredSliceDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
