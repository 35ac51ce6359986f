"""Stage 2: a fusion head trained on the last feature maps of frozen backbones."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules.layouts.conventions import REGIONS
from errors import InputError
from fusion.late import FromLateFusion
from lightning_modules.backbone import BackboneModule
from lightning_modules.optimisation.output_layer import InitialBias, OutputLayer
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.weights.checkpoints import KEY, build, load_module, set_arguments

HeadFactory = Callable[[Sequence[int], int, str], nn.Module]
# What the head's features are: after the last activation. Checkpoints from before held others.
FEATURES = "activated"


class FusionModule(SegmentationModule):
    """Fuse frozen backbones with a head of ``fusion``, after Vo-Thanh et al., section 3.

    The backbones stay in eval mode while the head trains, run once a batch, and keep no
    activations. The checkpoint contains their weights too.

    Args:
        head: a class of ``fusion``, built as ``head(feature_channels, 3, size)``.
        backbones: networks to fuse: experiment files (``fit`` trains those not trained yet),
            checkpoint files of stage 1, or networks of other projects: a MONAI bundle's folder or
            model.pt, or a folder of results of nnU-Net v2, from which ``fit`` takes over size,
            spacing, normalisation and patch size. (A fusion checkpoint names the architectures
            instead, as JSON: their weights are in it.)
        size: named size of head and backbones: tiny for a CPU, base as in the paper.
        output_rate: factor on the learning rate of the head's last convolution, if it has one.
        output_bias: bias of that convolution at the start: prevalence, the logit of each region's
            share of the training patches; a number for all regions; null: random.
        deep_supervision: no effect on the head, which has one output; in an overlay it is for the
            backbones that are trained first.
        trained_on: file of the patients, one id a line, that foreign networks among the backbones
            were trained on, for those without a file ``trained_on.txt`` beside them; null: unknown.
        **training: loss, optimizer, scheduler, overlap, postprocessing, precision.

    Raises:
        InputError: when there is no backbone, one is no stage-1 checkpoint or has another size, or
            a bias is set of a layer that corrects late fusion; on loading, when the checkpoint's
            head was trained on features that this version does not have.
    """

    job_type = "fusion"

    def __init__(
        self,
        head: HeadFactory,
        backbones: list[str],
        size: Literal["tiny", "base"] = "tiny",
        output_rate: float = 1.0,
        output_bias: InitialBias = None,
        deep_supervision: bool = False,
        trained_on: str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        if not backbones:
            raise InputError(
                "model.backbones is empty: list the networks to fuse, such as "
                "[experiments/dynunet.yaml, experiments/segresnet.yaml]."
            )
        modules = [_load_backbone(source) for source in backbones]
        self.backbone_specs = [module.card["model"] for module in modules]
        for source, module in zip(backbones, modules, strict=True):
            found = module.card["model"]["init_args"].get("size", "tiny")
            if found != size and getattr(module.network, "has_sizes", True):
                raise InputError(
                    f"The backbone {source} has size {found}, the fusion {size}: "
                    "train the backbones and the fusion at one size."
                )
        self.networks: list[Any] = [module.network for module in modules]
        self.backbones = nn.ModuleList(self.networks)
        self.backbones.requires_grad_(requires_grad=False).eval()
        channels = [network.feature_channels for network in self.networks]
        self.head = head(channels, len(REGIONS), size)
        if output_bias is not None and self.starts_as_late_fusion:
            raise InputError(
                "model.output_bias is given, but the head starts as late fusion, which has the "
                "backbones' own prevalence: leave it out, or set model.head.start to zero."
            )
        self.output = OutputLayer(self.head, output_rate, output_bias)
        self.trained_on = trained_on
        self.deep_supervision = deep_supervision

    @property
    def starts_as_late_fusion(self) -> bool:
        """Whether the head begins as late fusion and is trained to correct it."""
        begin = getattr(self.head, "begin", None)
        return isinstance(begin, FromLateFusion) and begin.late is not None

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

    def watch(self, probabilities: Tensor, batch: dict[str, Any]) -> None:
        """Log the median distance of a patient's logits from 0 inside the brain, 16 at most.

        Above 9 or so the head has saturated: it is certain everywhere and hardly learns any more.
        """
        image = batch["image"]  # 0 in every modality outside the brain
        brain = image.ne(0).any(dim=1, keepdim=True).expand_as(probabilities)
        distance = torch.logit(probabilities.float()[brain], eps=1e-7).abs().median()
        self.log("val/median_logit", distance, sync_dist=True, batch_size=1)

    def remarks(self) -> list[str]:
        """Say where the head started, which readers of its scores need beside late fusion's."""
        remarks = super().remarks()
        if self.starts_as_late_fusion:
            remarks.append("the head started as late fusion of its backbones")
        if self.deep_supervision:
            remarks.append("deep supervision is left to the backbones, as the head has one output")
        return remarks

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the card; refuse a head that was trained on other features."""
        super().on_load_checkpoint(checkpoint)
        trained = any(name.startswith("head.") for name in checkpoint["state_dict"])
        if trained and self.card.get("features") != FEATURES:
            raise InputError(
                "This fusion was trained by an earlier version, on feature maps from before the "
                "backbones' last activation: train it again with `lightning fit`; its backbones "
                "can stay."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the backbones by architecture: their weights are in the checkpoint already."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY]["features"] = FEATURES
        specs = [json.dumps(spec) for spec in self.backbone_specs]
        set_arguments(checkpoint[KEY], backbones=specs)
        if self.trained_on is not None:
            set_arguments(checkpoint[KEY], trained_on=None)  # its ids are in the card


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
