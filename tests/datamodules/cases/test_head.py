import numpy as np
import pytest

from datamodules.cases.head import head_mask, otsu
from tests.datamodules.tiny_patients import ellipsoid

SHAPE = (40, 44, 36)


@pytest.fixture
def head():
    """A head with a dark ring of skull, its true extent, and the noise of the air."""
    rng = np.random.default_rng(0)
    middle = [n / 2 for n in SHAPE]
    outer, skull, brain = (
        ellipsoid(SHAPE, middle, [n / k for n in SHAPE]) for k in (2.4, 2.7, 3.1)
    )
    image = np.abs(rng.normal(0, 12, SHAPE))
    image[outer] = rng.normal(300, 20, SHAPE)[outer]
    image[skull] = np.abs(rng.normal(0, 12, SHAPE))[skull]
    image[brain] = rng.normal(200, 20, SHAPE)[brain]
    return image.astype(np.int16), outer


def test_otsu_lies_between_two_classes():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 3, 5000), rng.normal(100, 10, 3000)])
    assert 20 < otsu(values) < 80
    assert otsu(np.full(10, 3.0)) == 3.0


def test_the_head_is_found_whole_without_the_air(head):
    image, outer = head
    found = head_mask([image])
    overlap = 2 * (found & outer).sum() / (found.sum() + outer.sum())
    assert overlap > 0.97


def test_what_one_image_does_not_show_another_does(head):
    image, outer = head
    half = image.copy()
    half[20:] = 0
    found = head_mask([half, image])
    assert 2 * (found & outer).sum() / (found.sum() + outer.sum()) > 0.97


def test_a_head_needs_an_image():
    with pytest.raises(ValueError, match="at least one"):
        head_mask([])
