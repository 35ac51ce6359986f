"""Losses for classes that exclude one another are refused for regions that overlap."""

import pytest

from errors import InputError
from studies.settings.loss_check import check_loss

VOLUMES, SLICES = "lightning_modules.BackboneModule", "lightning_modules.SliceBackboneModule"
STAGE = "lightning_modules.FeatureTransitionModule"  # accepts a loss and uses none


def check(module, loss, **options):
    loss = {"class_path": loss, "init_args": options}
    check_loss({"class_path": module, "init_args": {"loss": loss}})


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("monai.losses.DiceCELoss", {"sigmoid": True}, "cross-entropy of a softmax"),
        ("torch.nn.CrossEntropyLoss", {}, "cross-entropy of a softmax"),
        ("monai.losses.DiceLoss", {"softmax": True}, "has softmax: true.*leave it out"),
        ("monai.losses.FocalLoss", {"use_softmax": True}, "has use_softmax: true"),
        ("monai.losses.DiceLoss", {"sigmoid": True, "to_onehot_y": True}, "has to_onehot_y: true"),
        (
            "monai.losses.HausdorffDTLoss", {"sigmoid": True, "include_background": False},
            "leaves out the first of WT, TC, ET",
        ),
        ("monai.losses.DiceLoss", {"sigmoid": False}, "take logits as probabilities"),
    ],
)  # fmt: skip
def test_what_does_not_fit_three_regions_is_refused(loss, options, message):
    with pytest.raises(InputError, match=message):
        check(VOLUMES, loss, **options)


def test_the_advice_names_a_loss_that_is_accepted():
    with pytest.raises(InputError, match=r"use lightning_modules\.losses\.DiceBCELoss\.$"):
        check(VOLUMES, "monai.losses.DiceCELoss", sigmoid=True)
    check(VOLUMES, "lightning_modules.losses.DiceBCELoss", squared_pred=True)


def test_one_region_takes_the_binary_cross_entropy_of_monai():
    check(SLICES, "monai.losses.DiceCELoss", sigmoid=True, include_background=True)
    with pytest.raises(InputError, match="WT is decided by a sigmoid"):
        check(SLICES, "monai.losses.DiceCELoss", softmax=True)


def test_other_losses_and_modules_without_a_loss_pass():
    check(VOLUMES, "monai.losses.DiceFocalLoss", sigmoid=True, include_background=True)
    check(STAGE, "monai.losses.DiceCELoss", sigmoid=True)
    check_loss({"class_path": VOLUMES, "init_args": {}})
