"""Stage 1: one segmentation network of ``backbones``, trained from the four modalities."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from datamodules.layouts import MODALITIES, REGIONS
from lightning_modules.segmentation import SegmentationModule

NetworkFactory = Callable[[int, int, str], nn.Module]


class BackboneModule(SegmentationModule):
    """Train one network of ``backbones`` to segment WT, TC and ET.

    Args:
        network: a class of ``backbones``, built as ``network(4, 3, size)``.
        size: named size of the network, as in timm: tiny for a CPU, base as in the paper.
        **training: loss, optimizer, scheduler, overlap, precision.
    """

    def __init__(
        self, network: NetworkFactory, size: Literal["tiny", "base"] = "tiny", **training: Any
    ) -> None:
        super().__init__(**training)
        self.network = network(len(MODALITIES), len(REGIONS), size)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 4, D, H, W) to logits (B, 3, D, H, W)."""
        logits: Tensor = self.network(image)
        return logits
