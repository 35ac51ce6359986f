"""Stage 2: a fusion head trained on the last feature maps of frozen backbones."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.layouts.conventions import REGIONS
from errors import InputError
from lightning_modules.backbone import BackboneModule
from lightning_modules.optimisation.output_layer import InitialBias, OutputLayer
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.weights.checkpoints import KEY, build, load_module, set_arguments

HeadFactory = Callable[[Sequence[int], int, str], nn.Module]


class FusionModule(SegmentationModule):
    """Fuse frozen backbones with a head of ``fusion``, after Vo-Thanh et al., section 3.

    The backbones stay in eval mode while the head trains, run once a batch, and keep no
    activations. The checkpoint contains their weights too.

    Args:
        head: a class of ``fusion``, built as ``head(feature_channels, 3, size)``.
        backbones: networks to fuse: experiment files (``fit`` trains those not trained yet) or
            checkpoint files of stage 1. (A fusion checkpoint names the architectures instead, as
            JSON: their weights are in it.)
        size: named size of head and backbones: tiny for a CPU, base as in the paper.
        output_rate: factor on the learning rate of the head's last convolution, if it has one.
        output_bias: bias of that convolution at the start: prevalence, the logit of each region's
            share of the training patches; a number for all regions; null: random.
        **training: loss, optimizer, scheduler, overlap, postprocessing, precision.

    Raises:
        InputError: when a backbone is no stage-1 checkpoint or has another size.
    """

    job_type = "fusion"

    def __init__(
        self,
        head: HeadFactory,
        backbones: list[str],
        size: Literal["tiny", "base"] = "tiny",
        output_rate: float = 1.0,
        output_bias: InitialBias = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        modules = [_load_backbone(source) for source in backbones]
        self.backbone_specs = [module.card["model"] for module in modules]
        for source, spec in zip(backbones, self.backbone_specs, strict=True):
            found = spec["init_args"].get("size", "tiny")
            if found != size:
                raise InputError(
                    f"The backbone {source} has size {found}, the fusion {size}: "
                    "train the backbones and the fusion at one size."
                )
        self.networks: list[Any] = [module.network for module in modules]
        self.backbones = nn.ModuleList(self.networks)
        self.backbones.requires_grad_(requires_grad=False).eval()
        channels = [network.feature_channels for network in self.networks]
        self.head = head(channels, len(REGIONS), size)
        self.output = OutputLayer(self.head, output_rate, output_bias)

    def train(self, mode: bool = True) -> "FusionModule":
        """Set the head's mode; frozen backbones never leave eval mode."""
        super().train(mode)
        self.backbones.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 4, D, H, W) to fused logits (B, 3, D, H, W)."""
        with torch.no_grad():
            features = [network.features(image) for network in self.networks]
            logits = [
                network.head(feature)
                for network, feature in zip(self.networks, features, strict=True)
            ]
        fused: Tensor = self.head(features, logits)
        return fused

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the backbones by architecture: their weights are in the checkpoint already."""
        super().on_save_checkpoint(checkpoint)
        specs = [json.dumps(spec) for spec in self.backbone_specs]
        set_arguments(checkpoint[KEY], backbones=specs)


def _load_backbone(source: str) -> BackboneModule:
    spec = json.loads(source) if source.startswith("{") else None
    if spec is not None:
        module = build(spec)
    elif Path(source).suffix == ".ckpt":
        module = load_module(source)
    else:
        raise InputError(
            f"The backbone {source} is an experiment that is not trained yet: only `lightning fit` "
            "trains upstream stages; elsewhere give checkpoint files."
        )
    if not isinstance(module, BackboneModule):
        raise InputError(
            f"{source} holds a {type(module).__name__}, not a stage-1 backbone: "
            "give a checkpoint of an experiment such as experiments/dynunet.yaml."
        )
    if spec is not None:
        module.card = {"model": spec}
    return module
