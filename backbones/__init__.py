"""Networks that segment on their own, one a file."""

from backbones.dynunet import DynUNet
from backbones.segresnet import SegResNet
from backbones.swin_unet import SwinUnet
from backbones.transunet import TransUNet

__all__ = ["DynUNet", "SegResNet", "SwinUnet", "TransUNet"]
