"""How a network is trained: one LightningModule a file."""

from lightning_modules.backbone import BackboneModule
from lightning_modules.fusion import FusionModule
from lightning_modules.segmentation import SegmentationModule

__all__ = ["BackboneModule", "FusionModule", "SegmentationModule"]
