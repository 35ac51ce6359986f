"""Training of the networks, one LightningModule a file."""

from lightning_modules.backbone import BackboneModule, SliceBackboneModule
from lightning_modules.feature_transition import FeatureTransitionModule
from lightning_modules.fusion import FusionModule
from lightning_modules.optimisation.schedules import Polynomial, WarmupCosine
from lightning_modules.sam.adapter import SamAdapterModule
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.slice_segmentation import SliceModule

__all__ = [
    "BackboneModule",
    "FeatureTransitionModule",
    "FusionModule",
    "Polynomial",
    "SamAdapterModule",
    "SegmentationModule",
    "SliceBackboneModule",
    "SliceModule",
    "WarmupCosine",
]
