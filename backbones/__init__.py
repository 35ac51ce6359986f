"""Segmentation networks, one a file, and the parts of SAM that adapters build on."""

from backbones.dynunet import DynUNet
from backbones.mednext import MedNeXt
from backbones.multipath_attention import MultipathAttentionUNet
from backbones.planned_unet import PlannedUNet
from backbones.residual_encoder_unet import ResidualEncoderUNet
from backbones.sam.decoder import SamMaskDecoder, SamPrompt
from backbones.sam.encoder import SamImageEncoder
from backbones.sam.tiny_vit import TinyViT
from backbones.segresnet import SegResNet
from backbones.slices.swin_unet import SwinUnet
from backbones.slices.transunet import TransUNet

__all__ = [
    "DynUNet",
    "MedNeXt",
    "MultipathAttentionUNet",
    "PlannedUNet",
    "ResidualEncoderUNet",
    "SamImageEncoder",
    "SamMaskDecoder",
    "SamPrompt",
    "SegResNet",
    "SwinUnet",
    "TinyViT",
    "TransUNet",
]
