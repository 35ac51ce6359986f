"""Randomisation of patches and slices: what each part does, and what stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from datamodules.training import randomisation
from datamodules.training.randomisation import VARIATION, draw_randomisation, randomise
from errors import InputError
from tests.datamodules.deliveries import delivered

ONE, ZERO = np.ones(4, np.float32), np.zeros(4, np.float32)
KINDS = [BraTSPatchDataModule, RegisteredSliceDataModule]
SIZES = [(20, 24, 28), (40, 44)]


def scene(size, spacing=4.0):
    """An image with background around an ellipsoid, a tumour in it, and numbers that do nothing."""
    rng = np.random.default_rng(0)
    places = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    radius = np.sqrt(sum(place**2 for place in places))
    image = gaussian_filter(rng.standard_normal((4, *size), np.float32), (0, *[2.0] * len(size)))
    image /= image.std()
    image[:, radius > 0.9] = 0
    numbers = draw_randomisation(rng, tuple(spacing * n for n in size))
    nothing = {name: np.zeros_like(getattr(numbers, name)) for name in ("bias", "noise")}
    nothing |= {name: np.zeros((4, len(size)), np.float32) for name in ("linear", "quadratic")}
    nothing |= {"gamma": ONE, "sharpening": ZERO, "heights": np.zeros_like(numbers.heights)}
    return torch.from_numpy(image).half().float(), radius < 0.3, replace(numbers, **nothing)


def randomised(image, *numbers):
    """Return the changed image in float32, to compute with; the values are those of float16."""
    changed = randomise(image.half(), *numbers)
    assert changed.dtype == torch.float16
    return changed.float()


def relative(image):
    """Intensities relative to the brain's mean."""
    variation = torch.tensor(VARIATION).view(4, *[1] * (image.ndim - 1))
    return 1 + variation * image


@pytest.mark.parametrize("size", SIZES)
def test_numbers_that_do_nothing_leave_the_image(size):
    image, tumour, nothing = scene(size)
    image = image.clamp(-2, 3)  # brighter than the darkest that the logarithm takes
    changed = randomised(image, tumour, nothing, ONE, ZERO)
    torch.testing.assert_close(changed, image, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(6))
def test_the_background_stays_and_so_do_mean_and_deviation(size, seed, monkeypatch):
    image, tumour, _ = scene(size)
    image[1] = 0  # a modality that is missing
    numbers = draw_randomisation(np.random.default_rng(seed), tuple(4.0 * n for n in size))
    changed = randomised(image, tumour, numbers, ONE, ZERO)
    brain = (image != 0).any(0)
    assert not changed[:, ~brain].any()
    assert not changed[1].any()
    assert (changed != 0).any(0)[brain].all()
    for number in (0, 2, 3):
        before, after = image[number][brain], changed[number][brain]
        assert float(after.mean()) == pytest.approx(float(before.mean()), abs=0.25)
        assert float(after.std()) == pytest.approx(float(before.std()), rel=0.35)
        assert float((after - before).abs().mean()) > 0.02
    again = randomised(image, tumour, numbers, ONE, ZERO)
    assert torch.equal(changed, again)
    monkeypatch.setattr(randomisation, "CACHED", 4 * 3 * image[0, 0].numel())  # three rows a piece
    pieces = randomised(image, tumour, replace(numbers, noise=ZERO), ONE, ZERO)
    monkeypatch.undo()
    whole = randomised(image, tumour, replace(numbers, noise=ZERO), ONE, ZERO)
    # two steps of float16, as sums over pieces may be rounded to either side
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=2e-3)


def test_no_voxel_of_brain_becomes_background():
    image, tumour, nothing = scene((8, 8, 8))
    image = torch.where(image != 0, torch.ones(()), image)
    image[0, 4, 4, 4] = 2.0
    image[1:] = 0
    # The scale of 0 and no shift would make every voxel of the brain 0.
    changed = randomised(image, tumour, nothing, ZERO, ZERO)
    assert torch.equal(changed[0] != 0, image[0] != 0)


def test_a_patch_with_hardly_any_brain_keeps_it():
    image = torch.zeros(4, 8, 8, 8)
    image[:, 3, 3, 3] = 1.5
    numbers = draw_randomisation(np.random.default_rng(0), (64.0,) * 3)
    assert torch.equal(randomised(image, np.zeros((8, 8, 8), bool), numbers, ONE, ZERO), image)


@pytest.mark.parametrize("size", SIZES)
def test_scale_and_shift_come_last(size):
    image, tumour, nothing = scene(size)
    plain = randomised(image, tumour, nothing, ONE, ZERO)
    scale, shift = np.float32([0.9, 1, 1.1, 1]), np.float32([0.1, 0, -0.1, 0.05])
    changed = randomised(image, tumour, nothing, scale, shift)
    brain = (image != 0).any(0)
    expected = plain * torch.from_numpy(scale).view(4, *[1] * len(size))
    expected = expected + torch.from_numpy(shift).view(4, *[1] * len(size))
    # both sides are rounded to float16, the plain one before the shift
    torch.testing.assert_close(changed[:, brain], expected[:, brain], atol=1e-3, rtol=2e-3)


def test_gamma_is_a_power_of_the_intensity():
    image, tumour, nothing = scene((20, 24, 28))
    image = image.clamp(-2, 3)
    changed = randomised(image, tumour, replace(nothing, gamma=ONE * 1.5), ONE, ZERO)
    brain = (image != 0).any(0)
    for before, after in zip(relative(image), changed, strict=True):
        together = torch.stack([before[brain] ** 1.5, after[brain]])
        assert float(torch.corrcoef(together)[0, 1]) > 1 - 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_drift_is_linear_and_quadratic_along_an_axis(size):
    image, tumour, nothing = scene(size)
    image = torch.where(image[:1] != 0, image.clamp(-0.5, 0.5), 0)
    drift = {name: np.zeros((4, len(size)), np.float32) for name in ("linear", "quadratic")}
    drift["linear"][:, 1], drift["quadratic"][:, 1] = 0.2, -0.1
    changed = randomised(image, tumour, replace(nothing, **drift), ONE, ZERO)
    brain = (image != 0).any(0)
    x = (np.arange(size[1]) + 0.5 - size[1] / 2) * 4.0 / 80.0
    factor = torch.from_numpy(np.exp(0.2 * x - 0.1 * x**2)).float()
    factor = factor.view(1, 1, -1, *[1] * (len(size) - 2))
    expected = relative(image) * factor
    for before, after in zip(expected, changed, strict=True):
        together = torch.stack([before[brain], after[brain]])
        assert float(torch.corrcoef(together)[0, 1]) > 0.9995


def test_the_bias_field_is_smooth_bounded_and_partly_shared():
    logs, heights = [], []
    for seed in range(40):
        numbers = draw_randomisation(np.random.default_rng(seed), (160.0,) * 3)
        assert 50 <= numbers.knot <= 140
        plain = {name: np.zeros((4, 3), np.float32) for name in ("linear", "quadratic")}
        numbers = replace(numbers, gamma=ONE, heights=0 * numbers.heights, **plain)
        field = randomisation._log_fields(np.zeros((20,) * 3, bool), [1] * 3, numbers)
        field = field - np.log(VARIATION).reshape(4, 1, 1, 1)
        assert np.abs(np.diff(field, axis=1)).max() < 0.35  # 8 mm apart
        heights.append(field.std())
        logs.append(field.reshape(4, -1)[:, ::500])
    assert 0.05 < np.mean(heights) < 0.25  # amplitudes are uniform from 0 to .35
    together = np.corrcoef(np.concatenate(logs, axis=1))
    assert 0.25 < together[np.triu_indices(4, 1)].mean() < 0.75


@pytest.mark.parametrize("size", SIZES)
def test_blobs_avoid_the_tumour(size):
    image, tumour, nothing = scene(size)
    image = torch.where(image != 0, image.clamp(-0.5, 0.5), image)
    extent = np.array(nothing.extent)
    found = []
    for centre in (0.5 * extent, 0.25 * extent):  # in the tumour, and beside it
        one = {"centres": centre[None], "widths": np.full((1, len(size)), 60.0)}
        one = {name: value.astype(np.float32) for name, value in one.items()}
        numbers = replace(nothing, **one, heights=np.full((1, 4), 0.5, np.float32))
        steps = [2] * len(size)
        logs = randomisation._log_fields(tumour, steps, numbers)
        logs = logs - np.log(VARIATION).reshape(4, *[1] * len(size))
        fields, weights = randomisation._interpolated(logs.astype(np.float32), steps, size)
        shown = (weights @ fields).view(4, *size).numpy()
        assert np.abs(shown[:, tumour]).max() < 1e-5
        found.append(np.abs(shown).max())
    assert found[0] < 1e-5
    assert 0.3 < found[1] <= 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sharpening", [-1.0, 0.5])
def test_blur_and_sharpening_are_a_gaussian_along_one_axis(axis, sharpening):
    image, tumour, nothing = scene((20, 24, 28))
    image = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    numbers = replace(
        nothing,
        axis=np.full(4, axis),
        sigma=np.full(4, 0.8, np.float32),
        sharpening=np.full(4, sharpening, np.float32),
    )
    changed = randomised(image, tumour, numbers, ONE, ZERO)
    blurred = gaussian_filter1d(image.numpy(), 0.8, axis=axis + 1, truncate=2.5)
    expected = image.numpy() + sharpening * (image.numpy() - blurred)
    inner = tuple(slice(3, -3) for _ in range(3))
    for one, other in zip(changed.numpy(), expected, strict=True):
        assert np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1] > 0.9999


def test_noise_has_its_deviation_and_is_independent():
    image, tumour, nothing = scene((20, 24, 28))
    image = image.clamp(-2, 3)
    noise = np.float32([0.0, 0.05, 0.1, 0.15])
    changed = randomised(image, tumour, replace(nothing, noise=noise), ONE, ZERO)
    brain = (image != 0).any(0)
    left = []
    for number, variation in enumerate(VARIATION):
        plain, noisy = image[number][brain], changed[number][brain]
        slope = float(torch.corrcoef(torch.stack([plain, noisy]))[0, 1])
        share = noise[number] / np.hypot(noise[number], variation * float(plain.std()))
        assert (1 - slope**2) ** 0.5 == pytest.approx(share, abs=0.03)
        left.append(noisy / noisy.std() - slope * plain / plain.std())
    assert abs(float(torch.corrcoef(torch.stack(left[2:]))[0, 1])) < 0.1


def test_drawn_numbers_keep_to_their_ranges():
    rng = np.random.default_rng(0)
    draws = [draw_randomisation(rng, (96.0, 80.0, 64.0)) for _ in range(600)]
    assert np.abs([draw.linear for draw in draws]).max() <= 0.2
    assert np.abs([draw.quadratic for draw in draws]).max() <= 0.14
    assert np.log([draw.gamma for draw in draws]).std() == pytest.approx(0.25, abs=0.02)
    assert {len(draw.centres) for draw in draws} == {0, 1, 2, 3, 4}
    heights, widths = (
        np.concatenate([getattr(draw, name).ravel() for draw in draws])
        for name in ("heights", "widths")
    )
    assert heights.std() == pytest.approx(0.25, abs=0.02)
    assert 20 <= widths.min() < 21
    assert 59 < widths.max() <= 60
    sigma, noise, change, axis = (
        np.array([getattr(draw, name) for draw in draws])
        for name in ("sigma", "noise", "sharpening", "axis")
    )
    assert 0.3 <= sigma.min() < sigma.max() <= 1.2
    assert 0 <= noise.min() < 0.01 < 0.14 < noise.max() <= 0.15
    assert (change == -1).mean() == pytest.approx(randomisation.BLURRED, abs=0.04)
    assert (change > 0).mean() == pytest.approx(randomisation.SHARPENED, abs=0.04)
    assert set(axis.ravel()) == {0, 1, 2}


@pytest.fixture
def batches(cohort, tmp_path):
    """`batches(kind, epoch, **changes)`: a training epoch of the six tiny cases."""

    def make(kind, epoch=0, **changes):
        size = {"slice_size": 32} if kind is RegisteredSliceDataModule else {"patch_size": [16] * 3}
        options = {"num_workers": 0, "augmentation": "randomised", **size, **changes}
        data = kind(root=str(cohort), cache_dir=str(tmp_path / "c"), **options)
        data.prepare_data()
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return delivered(data, loader)

    return make


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [*((kind, "randomised") for kind in KINDS), (BraTSPatchDataModule, "nnunet")],
)
def test_a_sample_follows_from_seed_epoch_and_number(kind, augmentation, batches):
    def same(one, other):
        return all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))

    given = {"augmentation": augmentation}
    first = batches(kind, **given)
    assert same(first, batches(kind, num_workers=2, **given))
    assert not same(first, batches(kind, epoch=1, **given))
    assert not same(first, batches(kind, seed=1, **given))


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_on_top_of_the_plain_augmentation(kind, batches):
    for plain, changed in zip(batches(kind, augmentation=True), batches(kind), strict=True):
        assert torch.equal(plain["mask"], changed["mask"])  # turned and mirrored alike
        brain = (plain["image"] != 0).any(1)
        assert torch.equal(brain, (changed["image"] != 0).any(1))
        assert not torch.equal(plain["image"], changed["image"])
        assert torch.isfinite(changed["image"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_modalities_stay_blank(kind, batches):
    for batch in batches(kind, drop=["t1", "flair"]):
        assert not batch["image"][:, [0, 3]].any()
        assert batch["image"][:, [1, 2]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_refused(kind, tmp_path):
    with pytest.raises(InputError, match=r"data\.augmentation is 'foo': expected true, false"):
        kind(augmentation="foo", cache_dir=str(tmp_path))


def test_slices_have_no_augmentation_of_nnunet(tmp_path):
    with pytest.raises(InputError, match=r"'nnunet': expected true, false or randomised\."):
        RegisteredSliceDataModule(augmentation="nnunet", cache_dir=str(tmp_path))
