"""Check of a segmentation's loss before anything is prepared: regions overlap, classes do not."""

from collections.abc import Mapping
from pydoc import locate
from typing import Any

from monai.losses import DiceCELoss, GeneralizedWassersteinDiceLoss, NACLLoss
from torch import nn

from errors import InputError
from lightning_modules.segmentation import SegmentationModule

OF_CLASSES = (nn.CrossEntropyLoss, GeneralizedWassersteinDiceLoss, NACLLoss)
INSTEAD = "use lightning_modules.losses.DiceBCELoss"


def check_loss(model: Mapping[str, Any]) -> None:
    """Refuse a loss whose options are for classes that exclude one another.

    Args:
        model: ``model`` of a resolved configuration, plain types.

    Raises:
        InputError: when the loss would take a softmax over the regions, leave the first of them
            out, or take logits as probabilities.
    """
    module, loss = locate(model["class_path"]), model["init_args"].get("loss")
    if not isinstance(module, type) or not issubclass(module, SegmentationModule) or not loss:
        return
    name, options, regions = loss["class_path"], loss.get("init_args") or {}, module.regions
    kind, several = locate(name), len(regions) > 1
    if isinstance(kind, type) and issubclass(kind, (*OF_CLASSES, *([DiceCELoss] * several))):
        raise InputError(
            f"model.loss {name} takes the cross-entropy of a softmax over classes that exclude one "
            f"another, but {_listed(regions)} by a sigmoid: {INSTEAD}."
        )
    for option in ("softmax", "use_softmax", "to_onehot_y"):
        if options.get(option):
            raise InputError(
                f"model.loss {name} has {option}: true, which is for classes that exclude one "
                f"another, but {_listed(regions)} by a sigmoid: leave it out, or {INSTEAD}."
            )
    if several and options.get("include_background") is False:
        raise InputError(
            f"model.loss {name} has include_background: false, which leaves out the first of "
            f"{', '.join(regions)}, and none of them is background: set it to true."
        )
    if options.get("sigmoid") is False and options.get("other_act") is None:
        raise InputError(
            f"model.loss {name} has sigmoid: false, so it would take logits as probabilities: set "
            "it to true."
        )


def _listed(regions: tuple[str, ...]) -> str:
    overlap = f"{', '.join(regions)} overlap and are each decided"
    return overlap if len(regions) > 1 else f"{regions[0]} is decided"
