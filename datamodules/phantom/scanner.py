"""From signal to image: effects of the scanner and the processing on each modality."""

import numpy as np
import scipy.ndimage as ndi

from datamodules.phantom.anatomy import Anatomy
from datamodules.phantom.fields import Field, Grid, blur, smooth_noise, thick_slices


def acquire(
    rng: np.random.Generator, signal: Field, brain: Anatomy, grid: Grid, noise: float = 1.0
) -> np.ndarray:
    """One modality as it is delivered: int16, background exactly 0, brain at least 1.

    Args:
        rng: this modality's own stream.
        signal: noise-free signal, white matter about 1.
        brain: the patient's anatomy.
        grid: its grid.
        noise: factor on the noise.
    """
    image, slice_axis = _low_resolution(rng, shade(rng, signal, brain, grid), grid)
    covered = _field_of_view(rng, brain.mask, slice_axis)
    return digitise(rng, image, covered, grid.spacing, resampled=True, noise=noise)


def shade(rng: np.random.Generator, signal: Field, brain: Anatomy, grid: Grid) -> Field:
    """Tone curve (gradation differs between vendors) and coil sensitivity.

    The sensitivity varies smoothly by 2 to 16 %, and rises towards the array coil's elements at the
    surface where the vendor's correction was off or weak.
    """
    top = np.percentile(signal[brain.mask], 99.5)
    tone = np.exp(rng.normal(0, 0.12))
    image = top * (np.clip(signal, 0, None) / top) ** np.float32(tone)
    amount = np.exp(rng.uniform(np.log(0.02), np.log(0.16)))
    near = np.float32(np.clip(rng.normal(0.08, 0.15), -0.15, 0.5))
    surface = np.exp(-np.clip(brain.depth, 0, None) / np.float32(rng.uniform(5, 25)))
    elements = np.clip(1 + 0.8 * smooth_noise(rng, grid, 60.0), 0, None)
    return image * np.exp(
        np.float32(amount) * smooth_noise(rng, grid, 80.0) + near * surface * elements
    )


def _low_resolution(rng: np.random.Generator, image: Field, grid: Grid) -> tuple[Field, int | None]:
    """Thick slices in 35 % of the images, misregistration below a voxel, in-plane blur."""
    axis = None
    if rng.random() < 0.35:
        axis = int(rng.choice(3, p=[0.2, 0.15, 0.65]))
        thickness = max(rng.uniform(3.0, 6.5), 1.2 * grid.spacing)
        image = thick_slices(image, axis, thickness, rng.random(), grid.spacing)
    if rng.random() < 0.4:
        image = ndi.shift(image, rng.normal(0, 0.35, 3) / grid.spacing, order=1, mode="nearest")
    return blur(image, rng.uniform(0.2, 0.9) / grid.spacing), axis


def _field_of_view(
    rng: np.random.Generator, mask: np.ndarray, slice_axis: int | None
) -> np.ndarray:
    """Cut off up to a tenth of the brain on one side, where slices ran out or by misplacement."""
    if rng.random() >= (0.05 if slice_axis is None else 0.15):
        return mask
    axis = int(rng.integers(3)) if slice_axis is None else slice_axis
    other = tuple(a for a in range(3) if a != axis)
    inside = np.flatnonzero(mask.any(axis=other))
    depth = int(len(inside) * rng.uniform(0.02, 0.1))
    cut = inside[-depth - 1 :] if rng.random() < 0.6 else inside[: depth + 1]
    covered = np.moveaxis(mask.copy(), axis, 0)
    covered[cut] = False
    return np.moveaxis(covered, 0, axis)


def digitise(
    rng: np.random.Generator,
    image: Field,
    mask: np.ndarray,
    spacing: float,
    *,
    resampled: bool,
    noise: float = 1.0,
) -> np.ndarray:
    """Rician noise, gain, outliers, int16."""
    level = np.exp(rng.uniform(np.log(0.006), np.log(0.035)))
    if rng.random() < 0.2:
        level = rng.uniform(0.03, 0.06)
    level *= noise * (float(np.mean(image[mask])) if mask.any() else 1.0)
    if resampled:  # interpolation correlates the noise over about a millimetre
        width = 0.5 / spacing + 0.1
        real, imaginary = (
            ndi.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), width)
            for _ in range(2)
        )
        boost = 1 / max(float(real.std()), 1e-6)
        level *= (1.0 / spacing) ** 0.5 if spacing > 1 else 1.0
    else:
        real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
        boost = 1.0
    sigma = np.float32(level * boost)
    noisy = np.hypot(image + sigma * real, sigma * imaginary)
    # Means of the brain in the measured files lie between 120 and 1500.
    gain = np.exp(rng.uniform(np.log(150), np.log(1200))) / max(float(noisy[mask].mean()), 1e-6)
    values = np.round(noisy * np.float32(gain))
    if rng.random() < 0.05:  # isolated outliers up to the type's maximum, as in BraTS2021_01482
        where = np.argwhere(mask)
        hot = where[rng.integers(len(where), size=12)]
        values[tuple(hot.T)] = rng.uniform(4000, 32767, 12).round()
    values = np.clip(values, 1, 32767)
    return np.where(mask, values, 0).astype(np.int16)
