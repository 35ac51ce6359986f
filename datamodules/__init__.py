"""How patients become batches."""

from typing import Any

__all__ = ["BraTSPatchDataModule", "RegisteredSliceDataModule"]


def __getattr__(name: str) -> Any:
    """Import the data modules when asked for: `datamodules.layouts` alone needs no torch."""
    if name == "BraTSPatchDataModule":
        from datamodules.brats import BraTSPatchDataModule

        return BraTSPatchDataModule
    if name == "RegisteredSliceDataModule":
        from datamodules.slices import RegisteredSliceDataModule

        return RegisteredSliceDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
