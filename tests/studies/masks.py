"""Masks of a few synthetic patients, and `lightning evaluate` on them."""

import csv

import nibabel as nib
import numpy as np

import cli
from datamodules.layouts.conventions import BRATS_3, BRATS_4

SPACING = (1.0, 1.0, 2.0)
AFFINE = np.diag([*SPACING, 1.0])
CASES = [f"BraTS2021_0000{number}" for number in range(3)]


def regions(seed, shape=(20, 18, 14)):
    """Return nested regions of one patient; the first has no enhancing tumour."""
    centre = np.random.default_rng(seed).uniform(6, 12, 3)
    grid = np.indices(shape) - centre.reshape(3, 1, 1, 1)
    distance = np.sqrt((grid**2).sum(0))
    return np.stack([distance < 6, distance < 4, (distance < 3) & (seed > 0)])


def write(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)


def make_folders(folder):
    """Write references in the layout of BraTS 2021, and predictions with the values 1, 2, 3."""
    for seed, case_id in enumerate(CASES):
        reference = BRATS_4.from_regions(regions(seed))
        write(folder / "references" / case_id / f"{case_id}_seg.nii.gz", reference)
        shifted = np.roll(regions(seed), 1, axis=1)
        write(folder / "predictions" / f"{case_id}.nii.gz", BRATS_3.from_regions(shifted))
    return folder


def evaluate(folder, *words, labels=("--prediction_labels", "brats2023")):
    """Run `lightning evaluate` on two folders; an option in `words` replaces the usual one."""
    options = ("--predictions", folder / "predictions", "--references", folder / "references")
    options = (*options, *labels)
    pairs = zip(options[::2], options[1::2], strict=True)
    usual = [word for pair in pairs if pair[0] not in words for word in pair]
    return cli.main(["evaluate", *map(str, (*usual, *words))])


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))
