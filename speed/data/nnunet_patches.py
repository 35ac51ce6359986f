"""Patches augmented as nnU-Net does: `--data.augmentation nnunet` against nnU-Net's own library.

    pip install --target PEER --no-deps batchgeneratorsv2 scikit-image imageio tifffile lazy-loader
    python -m speed.data.nnunet_patches --data DIR --peer PEER [--out FILE.json]

Both read a 128^3 patch of the same prepared cases and change it by the same list, drawn
equally often. The peer does what nnU-Net's loader does: it cuts a wider region around the patch out
of an uncompressed float32 array (in memory here, which favours it), then applies
`batchgeneratorsv2`. Sides take turns in one process, on one thread, as in a loader process. What is
compared are means, as most patches are hardly changed and some a lot.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.cases.patch_centres import draw_centre, patch_start
from datamodules.volumes.augmentation import overlap
from datamodules.volumes.dataset import PatchDataset
from speed.data.patches import PATCH, own_patches
from speed.timing import report, take_turns

# What nnU-Net cuts out around a patch of 128^3: turned by 30 degrees, divided by 0.85.
WIDE = tuple(int(n * (np.cos(np.pi / 6) + np.sin(np.pi / 6)) / 0.85) for n in PATCH)


def peer_transforms() -> Any:
    """Return the transforms of `nnUNetTrainer` of nnU-Net 2.8.1 for volumes, without batches."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle = np.pi / 6
    gamma = {"gamma": BGContrast((0.7, 1.5)), "synchronize_channels": False, "p_per_channel": 1}
    factors = BGContrast((0.75, 1.25))
    drawn = [
        (GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True), 0.1),
        (GaussianBlurTransform((0.5, 1.0), False, False, p_per_channel=0.5, benchmark=True), 0.2),
        (MultiplicativeBrightnessTransform(factors, False, p_per_channel=1), 0.15),
        (ContrastTransform(factors, preserve_range=True, synchronize_channels=False), 0.15),
        (
            SimulateLowResolutionTransform((0.5, 1), False, True, None, p_per_channel=0.5),  # type: ignore[arg-type]
            0.25,
        ),
        (GammaTransform(p_invert_image=1, p_retain_stats=1, **gamma), 0.1),
        (GammaTransform(p_invert_image=0, p_retain_stats=1, **gamma), 0.3),
    ]
    return ComposeTransforms(
        [
            SpatialTransform(
                PATCH, patch_center_dist_from_border=0, random_crop=False, p_rotation=0.2,
                rotation=(-angle, angle), p_scaling=0.2, scaling=(0.7, 1.4),
                p_synchronize_scaling_across_axes=1, border_mode_seg="constant",
                padding_value_seg=-1,
            ),
            *(RandomTransform(one, apply_probability=share) for one, share in drawn),
            MirrorTransform((0, 1, 2)),
            MaskImageTransform([0, 1, 2, 3]),
        ]
    )  # fmt: skip


def peer_patches(dataset: PatchDataset) -> Callable[[int], object]:
    """Return a function that gives the peer's patch of a number, of the same cases."""
    transforms = peer_transforms()
    stored = []
    for case in dataset.cases:
        image = np.asarray(case.image, np.float32)
        label = np.where((image != 0).any(0), np.asarray(case.label), -1).astype(np.int16)
        stored.append((image, label[None], case.samples))

    def patch(number: int) -> object:
        image, label, samples = stored[number % len(stored)]
        centre = draw_centre(samples, np.random.default_rng(number), None)
        source, target, _ = overlap(patch_start(centre, WIDE, image.shape[1:]), WIDE, image.shape)
        wide, labels = np.zeros((4, *WIDE), np.float32), np.full((1, *WIDE), -1, np.int16)
        wide[target], labels[target] = image[source], label[source]
        return transforms(image=torch.from_numpy(wide), segmentation=torch.from_numpy(labels))

    return patch


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled BraTS cases")
    parser.add_argument("--peer", type=Path, required=True, help="folder with batchgeneratorsv2")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    sys.path.append(str(options.peer.resolve()))
    torch.set_num_threads(1)
    np.random.seed(0)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        own = own_patches(options.data, Path(folder), "nnunet")
        figures = take_turns(own.__getitem__, peer_patches(own), options.repeats)
    figures["ratio"] = figures["ratio_of_means"]
    title = "128^3 patch of four modalities, augmented as nnU-Net does, seconds"
    name = "mean of all patches"
    report(title, {name: figures}, {name: 2.0}, options.out, peer="batchgeneratorsv2")


if __name__ == "__main__":
    main()
