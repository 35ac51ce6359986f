"""Networks that segment on their own, one a file, and the parts of SAM that adapters build on."""

from backbones.dynunet import DynUNet
from backbones.sam import SamImageEncoder
from backbones.sam_decoder import SamMaskDecoder, SamPrompt
from backbones.segresnet import SegResNet
from backbones.swin_unet import SwinUnet
from backbones.transunet import TransUNet

__all__ = [
    "DynUNet",
    "SamImageEncoder",
    "SamMaskDecoder",
    "SamPrompt",
    "SegResNet",
    "SwinUnet",
    "TransUNet",
]
