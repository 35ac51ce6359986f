"""Help of options that take a class: a few relevant classes instead of every known subclass."""

import warnings
from argparse import Action
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import lightning as L  # noqa: N812, the name its own documentation uses
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from command_parser import with_examples
from lightning_modules.backbone import NetworkFactory, SliceNetworkFactory
from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.fusion import HeadFactory
from lightning_modules.sam.adapter import SamFactory

KNOWN_SUBCLASSES = ", known subclasses: "  # begins jsonargparse's list of classes

# Type of an option to the classes in its help; others with the same signature are accepted too.
RELEVANT_CLASSES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        L.LightningModule,
        (
            "lightning_modules.BackboneModule",
            "lightning_modules.FusionModule",
            "lightning_modules.FeatureTransitionModule",
            "lightning_modules.SliceBackboneModule",
            "lightning_modules.SamAdapterModule",
        ),
    ),
    (
        L.LightningDataModule,
        ("datamodules.BraTSPatchDataModule", "datamodules.RegisteredSliceDataModule"),
    ),
    (
        HeadFactory,
        (
            "fusion.DualFusionAttention",
            "fusion.EarlyFusion",
            "fusion.LateFusion",
        ),
    ),
    (
        NetworkFactory,
        (
            "backbones.DynUNet",
            "backbones.SegResNet",
            "backbones.ResidualEncoderUNet",
            "backbones.MedNeXt",
            "backbones.MultipathAttentionUNet",
            "fusion.FeatureTransitionFusion",
            "fusion.TriAttentionFusion",
        ),
    ),
    (SliceNetworkFactory, ("backbones.TransUNet", "backbones.SwinUnet")),
    (
        SamFactory,
        (
            "adapters.CrossModalitySam",
            "adapters.EarlyFusionSam",
            "adapters.SingleModalitySam",
            "adapters.LowRankSam",
            "adapters.BottleneckSam",
            "adapters.UntrainedBaseSam",
        ),
    ),
    (
        nn.Module,  # a loss, the only option that takes a built module
        (
            "monai.losses.DiceLoss",
            "lightning_modules.losses.DiceBCELoss",
            "monai.losses.DiceCELoss",
            "monai.losses.DiceFocalLoss",
            "monai.losses.GeneralizedDiceLoss",
            "monai.losses.TverskyLoss",
            "lightning_modules.losses.ClassDiceLoss",
        ),
    ),
    (
        OptimizerFactory,
        (
            "torch.optim.Adam",
            "torch.optim.AdamW",
            "torch.optim.NAdam",
            "torch.optim.RMSprop",
            "torch.optim.SGD",
        ),
    ),
    (
        SchedulerFactory,
        (
            "torch.optim.lr_scheduler.CosineAnnealingLR",
            "torch.optim.lr_scheduler.ExponentialLR",
            "torch.optim.lr_scheduler.PolynomialLR",
            "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "torch.optim.lr_scheduler.StepLR",
            "lightning_modules.WarmupCosine",
            "lightning_modules.Polynomial",
        ),
    ),
)


def relevant_classes(hint: Any) -> tuple[str, ...]:
    """Return the relevant classes for an option of this type; empty for other types."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((classes for known, classes in RELEVANT_CLASSES if known in parts), ())


def type_of(action: Action) -> Any:
    """Return the type of an option; jsonargparse has no public name for it."""
    return getattr(action, "_typehint", None)


class BriefHelp(DefaultHelpFormatter):
    """Help formatter that lists the relevant classes instead of every known subclass."""

    def _get_help_string(self, action: Action) -> str:
        with warnings.catch_warnings():  # of classes that cannot be imported
            warnings.simplefilter("ignore", UserWarning)
            text = str(super()._get_help_string(action))
        classes = relevant_classes(type_of(action))
        head, found, _ = text.partition(KNOWN_SUBCLASSES)
        return f"{head}, such as {', '.join(classes)})" if found and classes else text


class BriefParser(LightningArgumentParser):
    """A parser with brief help, also in its nested parsers for the help of one class.

    Attributes:
        examples: command lines that the help ends with.
    """

    examples: Sequence[str] = ()

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        brief = {"prog": "lightning", "formatter_class": BriefHelp}
        super().__init__(*arguments, **{**brief, **settings})

    def format_help(self, *formatter: Any) -> str:
        """Return the help with the examples below it."""
        return with_examples(super().format_help(*formatter), self.examples)
