import pytest
import torch
from monai.losses import DiceCELoss

from errors import InputError
from fusion.feature_transition import region_logits
from lightning_modules.losses import ClassDiceLoss, DiceBCELoss, classes_of


def test_class_dice_of_region_logits_is_that_of_the_softmax():
    """Written out with the softmax: squared denominator, background left out."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 6, 6, generator=generator)
    labels = torch.randint(4, (2, 6, 6, 6), generator=generator)
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    probabilities = logits.softmax(dim=1)
    overlap = (probabilities * one_hot).sum(dim=(2, 3, 4))
    total = (probabilities**2).sum(dim=(2, 3, 4)) + one_hot.sum(dim=(2, 3, 4))
    expected = (1 - 2 * overlap / total)[:, 1:].mean()
    whole = one_hot[:, 1:].sum(dim=1)
    mask = torch.stack([whole, one_hot[:, 1] + one_hot[:, 3], one_hot[:, 3]], dim=1)
    assert float(ClassDiceLoss()(region_logits(logits), mask)) == pytest.approx(
        float(expected), abs=1e-5
    )


def test_its_gradient_is_that_of_the_softmax_also_where_it_is_sure():
    logits = torch.tensor([12.0, 0.0, -3.0, 1.0]).reshape(1, 4, 1, 1, 1).requires_grad_()
    mask = torch.ones(1, 3, 1, 1, 1)
    ClassDiceLoss()(region_logits(logits), mask).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() > 0


def test_classes_are_differences_of_regions():
    regions = torch.tensor([1.0, 1.0, 0.0]).reshape(1, 3, 1)
    assert classes_of(regions).flatten().tolist() == [1, 0, 0]  # a core without enhancement
    outside = torch.tensor([0.0, 1.0, 0.0]).reshape(1, 3, 1)  # without tumour: no negative oedema
    assert classes_of(outside).flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("batch", [False, True])
def test_dice_and_cross_entropy_of_one_region_are_monai_s(batch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 5, 5, 5, generator=generator)
    mask = (torch.rand(2, 1, 5, 5, 5, generator=generator) > 0.7).float()
    for weight in (1.0, 3.0):
        options = {"squared_pred": True, "batch": batch}
        theirs = DiceCELoss(sigmoid=True, lambda_ce=weight, **options)(logits, mask)
        assert torch.equal(DiceBCELoss(bce_weight=weight, **options)(logits, mask), theirs)


def test_dice_and_cross_entropy_of_several_regions_are_means_over_them():
    """Written out; a softmax over the regions would give another number."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator)
    whole = (torch.rand(2, 1, 4, 4, 4, generator=generator) > 0.5).float()
    mask = torch.cat([whole, whole, torch.zeros_like(whole)], dim=1)  # overlapping, one empty
    p = torch.sigmoid(logits)
    cross_entropy = -(mask * p.log() + (1 - mask) * (1 - p).log()).mean()
    overlap, total = (p * mask).sum(dim=(0, 2, 3, 4)), (p + mask).sum(dim=(0, 2, 3, 4))
    expected = (1 - 2 * overlap / total).mean() + 3 * cross_entropy
    found = DiceBCELoss(batch=True, bce_weight=3.0)(logits, mask)
    assert float(found) == pytest.approx(float(expected), abs=1e-5)


def test_tumour_seen_where_there_is_none_is_punished():
    logits = torch.full((1, 3, 4, 4, 4), 5.0, requires_grad=True)
    DiceBCELoss(squared_pred=True)(logits, torch.zeros_like(logits)).backward()
    assert (logits.grad > 1e-4).all()
    with pytest.raises(InputError, match=r"bce_weight is -1\.0"):
        DiceBCELoss(bce_weight=-1.0)
