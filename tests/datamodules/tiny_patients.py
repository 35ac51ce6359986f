"""Tiny patients: an ellipsoid of noise with a nested tumour."""

import nibabel as nib
import numpy as np

SHAPE = (26, 30, 22)
LPS = np.array([[-1, 0, 0, 10], [0, -1, 0, 20], [0, 0, 1, -5], [0, 0, 0, 1]], float)


def ellipsoid(shape, centre, radii):
    axes = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def make_volumes(seed=0, shape=SHAPE, enhancing=4):
    """Four int16 images and a label with all three regions."""
    rng = np.random.default_rng(seed)
    middle = [n / 2 for n in shape]
    brain = ellipsoid(shape, middle, [n / 2.6 for n in shape])
    label = np.zeros(shape, np.uint8)
    for value, share in ((2, 0.25), (enhancing, 0.17), (1, 0.1)):
        label[ellipsoid(shape, middle, [n * share for n in shape])] = value
    images = {}
    for number, modality in enumerate(("t1", "t1ce", "t2", "flair")):
        values = rng.normal(500 + 100 * number, 60, shape) + 150.0 * (label > 0) * number
        images[modality] = np.where(brain, np.clip(values, 1, None), 0).astype(np.int16)
    return images, label


def save(array, path, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
