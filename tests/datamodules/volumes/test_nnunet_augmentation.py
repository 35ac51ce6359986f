"""nnU-Net's augmentation: every change by its own formula, and none outside of the brain."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from datamodules.volumes.augmentation import plain_patch
from datamodules.volumes.nnunet_augmentation import (
    NnunetNumbers,
    draw_nnunet,
    nnunet_patch,
    rotation,
)

NOTHING = NnunetNumbers(None, (False, False, False), None, 0, None, None, None, None, None, None)
ROUNDED = 2**-11  # to the nearest float16
SIZE = (20, 22, 24)
START = (3, 2, 1)


@pytest.fixture
def case():
    """A smooth image (4, 26, 26, 26) float16 with air around it, and a label."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(4, 26, 26, 26)), (0, 2, 2, 2)) * 20
    image[:, :5] = image[:, :, :4] = image[..., 23:] = 0
    label = (ndimage.gaussian_filter(rng.normal(size=(26, 26, 26)), 3) > 0).astype(np.uint8)
    return image.astype(np.float16), label * (image != 0).any(0)


def changed(case, **numbers):
    patch, labels = nnunet_patch(*case, START, SIZE, replace(NOTHING, **numbers))
    assert patch.shape == (4, *SIZE)
    assert patch.dtype == torch.float16
    assert labels.shape == SIZE
    assert labels.dtype == torch.uint8
    return patch.float(), labels


def plain(case):
    patch, labels = plain_patch(*case, START, SIZE)
    return patch.float(), labels, (patch != 0).any(0)


def test_nothing_drawn_changes_nothing_and_mirroring_mirrors(case):
    patch, labels, _ = plain(case)
    assert all(torch.equal(a, b) for a, b in zip(changed(case), (patch, labels), strict=True))
    flipped = changed(case, flips=(True, False, True))
    assert torch.equal(flipped[0], patch.flip([1, 3]))
    assert torch.equal(flipped[1], labels.flip([0, 2]))


def test_a_quarter_turn_and_a_mirror_as_matrices_move_whole_voxels(case):
    size = (20, 20, 20)
    patch, labels = plain_patch(*case, START, size)
    for axis in range(3):
        angles = np.zeros(3)
        angles[axis] = np.pi / 2
        numbers = replace(NOTHING, matrix=rotation(angles))
        turned = nnunet_patch(*case, START, size, numbers)
        first, second = (a for a in range(3) if a != axis)
        for found, original in zip(turned, (patch, labels), strict=True):
            channel = original.ndim - 3
            expected = torch.rot90(original, -1, (first + channel, second + channel))
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=ROUNDED)
    mirrored = replace(NOTHING, matrix=np.diag([-1.0, 1.0, -1.0]))
    found, _ = nnunet_patch(*case, START, size, mirrored)
    torch.testing.assert_close(found, patch.flip([1, 3]), atol=2e-3, rtol=ROUNDED)


@pytest.mark.parametrize("start", [(3, 2, 1), (-9, 4, 17), (40, 40, 40)])
def test_turned_and_scaled_is_what_scipy_reads_there(case, start):
    matrix = rotation(np.deg2rad([20, -25, 10])) * 1.3
    found, labels = nnunet_patch(*case, start, SIZE, replace(NOTHING, matrix=matrix))
    centre = np.asarray(start) + (np.asarray(SIZE) - 1) / 2
    offset = centre - matrix @ ((np.asarray(SIZE) - 1) / 2)
    for modality, values in enumerate(case[0].astype(np.float32)):
        expected = ndimage.affine_transform(
            values, matrix, offset, SIZE, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(found[modality], expected, atol=5e-3)
    expected = ndimage.affine_transform(
        case[1], matrix, offset, SIZE, order=0, mode="grid-constant"
    )
    assert (labels.numpy() != expected).mean() < 1e-3  # where two voxels are equally near


def test_noise_has_its_deviation_and_stays_in_the_brain(case):
    patch, _, brain = plain(case)
    noise = changed(case, noise=0.08, noise_seed=7)[0] - patch
    assert noise[:, brain].std().item() == pytest.approx(0.08, rel=0.03)
    assert noise[:, brain].mean().abs() < 0.004
    assert (noise[:, ~brain] == 0).all()
    assert torch.equal(changed(case, noise=0.08, noise_seed=7)[0] - patch, noise)


def test_blur_is_scipys_along_every_axis(case):
    patch, _, brain = plain(case)
    sigma = np.zeros((4, 3))
    sigma[2] = (0.5, 0.7, 1.0)
    found, _ = changed(case, sigma=sigma)
    expected = (
        ndimage.gaussian_filter(patch[2].numpy(), sigma[2], mode="mirror", radius=[2, 3, 3])
        * brain.numpy()
    )
    np.testing.assert_allclose(found[2], expected, atol=1e-4, rtol=ROUNDED)
    assert torch.equal(found[[0, 1, 3]], patch[[0, 1, 3]])


def test_brightness_and_contrast(case):
    patch, _, brain = plain(case)
    factors = np.array([0.8, 1.2, 1.0, 1.25])
    bright, _ = changed(case, brightness=factors)
    torch.testing.assert_close(
        bright,
        patch * torch.from_numpy(factors).float()[:, None, None, None],
        atol=1e-6,
        rtol=ROUNDED,
    )
    contrasted, _ = changed(case, contrast=factors)
    for one, before, factor in zip(contrasted, patch, factors, strict=True):
        inside = before[brain]
        expected = (inside - inside.mean()) * factor + inside.mean()
        expected = expected.clamp(inside.min(), inside.max())
        torch.testing.assert_close(one[brain], expected.float(), atol=1e-4, rtol=1e-3)
        assert (one[~brain] == 0).all()


def test_low_resolution_keeps_a_share_of_the_voxels(case):
    patch, _, brain = plain(case)
    found, _ = changed(case, coarse=np.array([1.0, 0.5, 1.0, 1.0]))
    few = torch.nn.functional.interpolate(patch[None, 1:2], (10, 11, 12), mode="nearest-exact")
    expected = torch.nn.functional.interpolate(few, SIZE, mode="trilinear")[0, 0]
    torch.testing.assert_close(found[1], expected * brain, atol=1e-6, rtol=ROUNDED)
    assert torch.equal(found[[0, 2, 3]], patch[[0, 2, 3]])


@pytest.mark.parametrize("inverted", [True, False])
def test_gamma_keeps_mean_and_deviation_of_the_brain_and_the_order_of_its_values(case, inverted):
    patch, _, brain = plain(case)
    name = "inverted_gamma" if inverted else "gamma"
    found, _ = changed(case, **{name: np.array([0.7, 1.0, 1.2, 1.5])})
    for one, before, gamma in zip(found, patch, (0.7, 1.0, 1.2, 1.5), strict=True):
        ours, inside = one[brain], before[brain]
        torch.testing.assert_close(ours.mean(), inside.mean(), atol=1e-3, rtol=0)
        torch.testing.assert_close(ours.std(), inside.std(), atol=1e-3, rtol=1e-3)
        assert (ours[inside.argsort()].diff() >= -1e-4).all()
        sign = -1 if inverted else 1
        share = (sign * inside - (sign * inside).min()) / (inside.max() - inside.min())
        power = share**gamma
        expected = (power - power.mean()) / power.std() * inside.std() + sign * inside.mean()
        torch.testing.assert_close(sign * ours, expected, atol=2e-3, rtol=1e-3)
        assert (one[~brain] == 0).all()


def test_each_change_is_drawn_as_often_as_nnunet_does():
    drawn = [draw_nnunet(np.random.default_rng((0, number))) for number in range(4000)]
    expected = {
        "matrix": 1 - 0.8 * 0.8, "noise": 0.1, "sigma": 0.2, "brightness": 0.15, "contrast": 0.15,
        "coarse": 0.25, "inverted_gamma": 0.1, "gamma": 0.3,
    }  # fmt: skip
    assert {field.name for field in fields(NnunetNumbers)} == {*expected, "flips", "noise_seed"}
    for name, probability in expected.items():
        share = np.mean([getattr(one, name) is not None for one in drawn])
        assert share == pytest.approx(probability, abs=0.025), name
    assert np.mean([one.flips for one in drawn]) == pytest.approx(0.5, abs=0.02)
    gammas = np.concatenate([one.gamma for one in drawn if one.gamma is not None])
    assert gammas.min() > 0.7
    assert gammas.max() < 1.5
    assert np.mean(gammas < 1) == pytest.approx(0.5, abs=0.03)
    sizes = [np.cbrt(abs(np.linalg.det(one.matrix))) for one in drawn if one.matrix is not None]
    assert 0.7 < min(sizes) < 0.75
    assert 1.35 < max(sizes) < 1.4


def test_a_patch_of_air_stays_air():
    image, label = np.zeros((4, 8, 8, 8), np.float16), np.zeros((8, 8, 8), np.uint8)
    for number in range(20):
        numbers = draw_nnunet(np.random.default_rng(number))
        patch, labels = nnunet_patch(image, label, (1, 1, 1), (6, 6, 6), numbers)
        assert not patch.any()
        assert not labels.any()
