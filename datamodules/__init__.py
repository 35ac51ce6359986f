"""How patients become batches."""

from typing import Any

__all__ = ["BraTSPatchDataModule"]


def __getattr__(name: str) -> Any:
    """Import the data modules when asked for: `datamodules.layouts` alone needs no torch."""
    if name == "BraTSPatchDataModule":
        from datamodules.brats import BraTSPatchDataModule

        return BraTSPatchDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
