"""Small modules that several tests of training share."""

import pytest
import torch
from monai.losses import DiceLoss

from backbones import DynUNet, SegResNet
from fusion import DualFusionAttention, LateFusion
from lightning_modules import BackboneModule, FusionModule


def spec_of(network: str) -> dict:
    loss = {"class_path": "monai.losses.DiceLoss", "init_args": {"sigmoid": True}}
    arguments = {"network": {"class_path": network}, "size": "tiny", "loss": loss}
    return {"class_path": "lightning_modules.BackboneModule", "init_args": arguments}


def write_backbone(folder, network, factory) -> str:
    """Write a stage-1 checkpoint with random weights; return its path."""
    torch.manual_seed(0)
    module = BackboneModule(network=factory, size="tiny", loss=DiceLoss(sigmoid=True))
    module.card.update(model=spec_of(network), seen=[])
    module.patch_size = (16, 16, 16)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    path = folder / f"{factory.__name__}.ckpt"
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture
def backbone_files(tmp_path):
    return [
        write_backbone(tmp_path, "backbones.DynUNet", DynUNet),
        write_backbone(tmp_path, "backbones.SegResNet", SegResNet),
    ]


@pytest.fixture
def fusion_module(backbone_files):
    loss = DiceLoss(sigmoid=True, squared_pred=True)
    return FusionModule(head=DualFusionAttention, backbones=backbone_files, size="tiny", loss=loss)


@pytest.fixture
def late_module(backbone_files):
    return FusionModule(head=LateFusion, backbones=backbone_files, size="tiny", loss=DiceLoss())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 4, 16, 16, 16, generator=generator)
    mask = (torch.rand(2, 3, 16, 16, 16, generator=generator) > 0.5).float()
    return {"image": image, "mask": mask, "case_id": ["a", "b"]}
