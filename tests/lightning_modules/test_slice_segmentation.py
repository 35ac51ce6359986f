"""Regions of the 2D study: what the networks return, the loss, the scores of a patient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from adapters import CrossModalitySam, EarlyFusionSam
from backbones import SwinUnet, TransUNet
from datamodules.layouts.conventions import CANONICAL, REGIONS, WHOLE_TUMOUR
from errors import InputError
from evaluation.metrics.scores import SLICE_METRICS
from lightning_modules import SamAdapterModule, SliceBackboneModule
from lightning_modules.losses import DiceBCELoss
from lightning_modules.weights.checkpoints import KEY

SIDE = 64
NETWORKS = {
    "adapter": (SamAdapterModule, CrossModalitySam, {"weights": "random"}),
    "early fusion": (SamAdapterModule, EarlyFusionSam, {"weights": "random"}),
    "TransUNet": (SliceBackboneModule, TransUNet, {}),
    "SwinUnet": (SliceBackboneModule, SwinUnet, {}),
}


def module(name="SwinUnet", **changes):
    torch.manual_seed(0)
    kind, network, options = NETWORKS[name]
    settings = {"loss": DiceCELoss(sigmoid=True), "image_size": SIDE, **options, **changes}
    return kind(network=network, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_system_segments_three_regions(name):
    model = module(name, regions=list(REGIONS))
    assert model.regions == REGIONS
    assert model.card["regions"] == list(REGIONS)
    image = torch.randn(2, 4, SIDE, SIDE)
    logits = model(image)
    assert logits.shape == (2, 3, SIDE, SIDE)
    mask = (torch.rand(2, 3, SIDE, SIDE) > 0.7).float()
    model.compute_loss({"image": image, "mask": mask, "case_id": ["a", "b"]}).backward()
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    assert all(w.grad is not None for w in model.parameters() if w.requires_grad)
    assert all(weight.grad is None for weight in frozen)


def test_the_default_is_the_whole_tumour():
    model = module()
    assert model.regions == ("WT",)
    assert model.convention is WHOLE_TUMOUR
    with pytest.raises(InputError, match=r"model\.regions is TC, a selection"):
        module(regions=["TC"])


def test_the_loss_takes_every_region_by_a_sigmoid_of_its_own():
    logits, mask = torch.randn(4, 3, 8, 8), (torch.rand(4, 3, 8, 8) > 0.5).float()
    several, overlapping = module(regions=list(REGIONS)), DiceBCELoss()
    torch.testing.assert_close(several.region_loss(logits, mask), overlapping(logits, mask))
    alone = module().region_loss(logits[:, :1], mask[:, :1])
    torch.testing.assert_close(alone, DiceCELoss(sigmoid=True)(logits[:, :1], mask[:, :1]))


def test_a_patient_is_scored_in_every_region_on_slices_and_volumes():
    model = module(regions=list(REGIONS))
    labels = np.zeros((12, 12, 3), np.uint8)
    labels[2:10, 2:10] = 2
    labels[4:8, 4:8, 1:] = 1
    labels[5:7, 5:7, 2] = 3
    reference = CANONICAL.to_regions(labels)
    case = SimpleNamespace(
        convention=CANONICAL,
        native_pixel=(1.0, 1.0),
        native_spacing=(1.0, 1.0, 5.0),
        native_regions=lambda: reference,
        native_slices=lambda volume: volume.transpose(2, 0, 1),
    )
    predicted = reference.copy()
    predicted[2] = False
    batch = {"selected": torch.tensor([[True, False, True]])}
    row = model.score({"case": case, "regions": predicted}, batch)
    assert row["slices"] == 2
    assert {f"slices/{metric}/{region}" for metric in SLICE_METRICS for region in REGIONS} <= {*row}
    assert row["slices/dice/WT"] == row["dice/TC"] == 1
    assert row["slices/dice/ET"] == 0.5  # absent in one of the two slices, missed in the other
    assert row["dice/ET"] == 0
    assert row["volume_ml/ET"] == pytest.approx(0.02)
    assert model.convention_of(case) is CANONICAL


def test_a_checkpoint_carries_its_regions():
    model = module(regions=list(REGIONS))
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert checkpoint[KEY]["regions"] == list(REGIONS)
