"""Adapters of a frozen foundation model to slices of four modalities, one paper a file."""

from adapters.bottleneck import Bottleneck, BottleneckSam
from adapters.cross_modality import CrossModalityAdapter, CrossModalitySam
from adapters.frozen_sam import EarlyFusionSam, FrozenSam, SingleModalitySam
from adapters.low_rank import LowRankSam, LowRankUpdate
from adapters.untrained_base import UntrainedBaseSam

__all__ = [
    "Bottleneck",
    "BottleneckSam",
    "CrossModalityAdapter",
    "CrossModalitySam",
    "EarlyFusionSam",
    "FrozenSam",
    "LowRankSam",
    "LowRankUpdate",
    "SingleModalitySam",
    "UntrainedBaseSam",
]
