"""Adapters between the streams of a frozen foundation model, one paper a file."""

from adapters.cross_modality import CrossModalityAdapter, CrossModalitySam
from adapters.frozen_sam import EarlyFusionSam, FrozenSam, SingleModalitySam

__all__ = [
    "CrossModalityAdapter",
    "CrossModalitySam",
    "EarlyFusionSam",
    "FrozenSam",
    "SingleModalitySam",
]
