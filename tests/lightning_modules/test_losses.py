import pytest
import torch

from fusion.feature_transition import region_logits
from lightning_modules.losses import ClassDiceLoss, classes_of


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
