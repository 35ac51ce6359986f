from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from datamodules.cases.intensity import BACKGROUND
from datamodules.cases.patch_centres import ABSENT, draw_centre, patch_start, region_samples
from datamodules.volumes.augmentation import (
    FLIP_PROBABILITY,
    INTENSITY,
    ROTATION_LIMIT,
    ROTATION_PROBABILITY,
    Augmentation,
    augmented_patch,
    draw,
    plain_patch,
)

ROUNDED = {"rtol": 2**-11, "atol": 1e-6}  # to the nearest float16
IDENTITY = Augmentation(
    None, 0.0, (False, False, False), np.ones(4, np.float32), np.zeros(4, np.float32)
)


@pytest.fixture
def volume():
    """A smooth image (4, 30, 32, 34) with background around, and a label in it."""
    rng = np.random.default_rng(0)
    d, h, w = np.indices((30, 32, 34)) / 10
    image = np.stack([np.sin(d + k) + np.cos(h * (k + 1)) - w for k in range(4)])
    image[:, :3] = image[:, :, :2] = BACKGROUND
    label = np.zeros((30, 32, 34), np.uint8)
    label[10:20, 8:22, 12:24] = rng.integers(0, 4, (10, 14, 12))
    return image.astype(np.float16), label


def test_a_patch_inside_is_the_volume_itself(volume):
    image, label = volume
    patch, labels = plain_patch(image, label, (4, 5, 6), (8, 10, 12))
    assert patch.dtype == torch.float16
    np.testing.assert_array_equal(patch, image[:, 4:12, 5:15, 6:18])
    np.testing.assert_array_equal(labels, label[4:12, 5:15, 6:18])


def test_a_volume_smaller_than_the_patch_lies_in_its_middle(volume):
    image, label = volume
    start = patch_start((15, 16, 17), (40, 40, 40), label.shape)
    patch, labels = plain_patch(image, label, start, (40, 40, 40))
    middle = patch[:, 5:35, 4:36, 3:37]
    np.testing.assert_array_equal(middle, image)
    assert torch.count_nonzero(patch) == torch.count_nonzero(middle)
    assert int(labels.sum()) == int(label.sum())


@pytest.mark.parametrize("centre", [(0, 0, 0), (29, 31, 33), (15, 16, 17)])
def test_patches_stay_inside_where_they_fit(centre):
    start = patch_start(centre, (8, 8, 8), (30, 32, 34))
    assert all(0 <= s <= n - 8 for s, n in zip(start, (30, 32, 34), strict=True))
    assert all(s <= c < s + 8 for s, c in zip(start, centre, strict=True))


def test_the_same_numbers_replay_the_same_patch(volume):
    augmentation = draw(np.random.default_rng(3))
    patches = [augmented_patch(*volume, (4, 5, 6), (8, 8, 8), augmentation) for _ in range(2)]
    assert torch.equal(patches[0][0], patches[1][0])
    assert torch.equal(patches[0][1], patches[1][1])


def test_no_augmentation_is_the_identity(volume):
    plain = plain_patch(*volume, (4, 5, 6), (8, 8, 8))
    augmented = augmented_patch(*volume, (4, 5, 6), (8, 8, 8), IDENTITY)
    assert torch.equal(plain[0], augmented[0])
    assert torch.equal(plain[1], augmented[1])


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("flips", [(True, False, False), (False, True, True), (True, True, True)])
def test_flips_mirror_image_and_label_alike(volume, axis, flips):
    turned = replace(IDENTITY, axis=axis, angle=0.2)
    straight = augmented_patch(*volume, (9, 9, 9), (9, 10, 11), turned)
    mirrored = augmented_patch(*volume, (9, 9, 9), (9, 10, 11), replace(turned, flips=flips))
    axes = [a for a, flip in enumerate(flips) if flip]
    torch.testing.assert_close(mirrored[0], straight[0].flip([a + 1 for a in axes]))
    assert torch.equal(mirrored[1], straight[1].flip(axes))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [0.25, -0.1])
@pytest.mark.parametrize("start", [(9, 9, 9), (-2, 20, 3)])
def test_rotation_is_that_of_an_independent_implementation(volume, axis, angle, start):
    image, label = volume
    size = (12, 14, 16)
    patch, labels = augmented_patch(
        image, label, start, size, replace(IDENTITY, axis=axis, angle=angle)
    )
    first, second = (a for a in range(3) if a != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    middle = (np.array(size) - 1) / 2
    offset = np.array(start) + middle - matrix @ middle
    wide = np.pad(image.astype(np.float64), ((0, 0), *[(20, 20)] * 3))
    for k in range(4):
        expected = affine_transform(wide[k], matrix, offset + 20, size, order=1)
        np.testing.assert_allclose(patch[k], expected, rtol=2**-11, atol=2e-3)
    expected = affine_transform(np.pad(label, 20), matrix, offset + 20, size, order=0)
    assert (labels.numpy() == expected).mean() > 0.995  # ties may round to either side


def test_corners_of_a_turned_patch_hold_image_not_padding():
    image = np.ones((4, 40, 40, 40), np.float16)
    label = np.zeros((40, 40, 40), np.uint8)
    patch, _ = augmented_patch(
        image, label, (12, 12, 12), (16, 16, 16), replace(IDENTITY, axis=0, angle=0.26)
    )
    assert torch.equal(patch, torch.ones_like(patch))


@pytest.mark.parametrize("axis", [None, 1])
def test_intensity_changes_the_brain_only(volume, axis):
    image, label = volume
    image[:, 15:, :, :] = BACKGROUND
    scale = np.array([0.9, 1.0, 1.1, 1.05], np.float32)
    shift = np.array([0.1, -0.1, 0.05, 0.0], np.float32)
    plain = replace(IDENTITY, axis=axis, angle=0.1)
    before, _ = augmented_patch(image, label, (0, 0, 0), (30, 32, 34), plain)
    changed = replace(plain, scale=scale, shift=shift)
    after, _ = augmented_patch(image, label, (0, 0, 0), (30, 32, 34), changed)
    brain = (before != BACKGROUND).any(0)
    assert not brain.all()
    assert torch.equal(after[:, ~brain], before[:, ~brain])
    scale, shift = (torch.from_numpy(v).view(4, 1, 1, 1) for v in (scale, shift))
    expected = before.float() * scale + shift
    torch.testing.assert_close(after[:, brain].float(), expected[:, brain], **ROUNDED)


def test_drawn_numbers_keep_to_their_ranges_and_probabilities():
    rng = np.random.default_rng(0)
    draws = [draw(rng) for _ in range(2000)]
    turned = [d for d in draws if d.axis is not None]
    assert len(turned) / 2000 == pytest.approx(ROTATION_PROBABILITY, abs=0.05)
    assert {d.axis for d in turned} == {0, 1, 2}
    assert np.rad2deg(max(abs(d.angle) for d in draws)) <= ROTATION_LIMIT
    assert np.mean([d.flips for d in draws], 0) == pytest.approx([FLIP_PROBABILITY] * 3, abs=0.05)
    scales, shifts = (np.array([getattr(d, name) for d in draws]) for name in ("scale", "shift"))
    assert np.abs(scales - 1).max() <= INTENSITY + 1e-6
    assert np.abs(shifts).max() <= INTENSITY
    assert np.abs(scales.mean(0) - 1).max() < 0.01


def region_label():
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:12, 5:12, 5:12] = 2
    label[6:9, 6:9, 6:9] = 1
    label[6, 6, 6] = 3
    return label, np.ones(label.shape, bool)


def test_centres_are_balanced_over_the_regions_and_background():
    label, brain = region_label()
    samples = region_samples(label, brain, 0)
    rng = np.random.default_rng(0)
    values = np.array([label[draw_centre(samples, rng)] for _ in range(4000)])
    assert (values == 0).mean() == pytest.approx(0.25, abs=0.03)
    # A quarter is drawn from ET alone, and a share of the core's quarter of 27 voxels.
    assert (values == 3).mean() == pytest.approx(0.25 + 0.25 / 27 + 0.25 / 343, abs=0.03)
    assert (values == 1).mean() == pytest.approx(0.25 * 26 / 27 + 0.25 * 26 / 343, abs=0.03)


@pytest.mark.parametrize("missing", [(3,), (1, 3), (1, 2, 3)])
def test_empty_regions_fall_back(missing):
    label, brain = region_label()
    label[np.isin(label, missing)] = 2 if 2 not in missing else 0
    samples = region_samples(label, brain, 0)
    assert (samples[2] == ABSENT).all()
    rng = np.random.default_rng(0)
    values = np.array([label[draw_centre(samples, rng)] for _ in range(1000)])
    tumour = 0.0 if 2 in missing else 0.75
    assert (values != 0).mean() == pytest.approx(tumour, abs=0.05)
