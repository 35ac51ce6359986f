"""Networks that segment on their own, one a file."""

from backbones.dynunet import DynUNet
from backbones.segresnet import SegResNet

__all__ = ["DynUNet", "SegResNet"]
