"""A training patch out of the cache, against MONAI's PersistentDataset and dictionary transforms.

    python -m speed.data.patches --data DIR [--out FILE.json]

Both sides start from their own prepared cache of the same cases and give one four-modality patch
with its label; first as it lies, then with rotation (probability 0.5, one axis, up to 15 degrees),
three flips, intensity scale and shift. Sides take turns in one process, so that a busy machine
slows both, and on one thread, as in a loader process. A randomised patch has no peer in MONAI: its
cost is stated as a multiple of the augmented patch's, at two sizes.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from monai.data import PersistentDataset
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    MapTransform,
    NormalizeIntensityd,
    OneOf,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotated,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.patients.find import find_cases
from datamodules.training.randomisation import Kind
from datamodules.volumes.datamodule import BraTSPatchDataModule
from datamodules.volumes.dataset import PatchDataset
from speed.timing import report, take_turns

PATCH = (128, 128, 128)
SIZES = {
    48: 2.0,
    128: 1.0,
}  # voxels along an edge to their size in mm: of the small and the paper's


def monai_patches(cases: list[CaseFiles], folder: Path, augmented: bool) -> PersistentDataset:
    """MONAI's way: normalised volumes on disk, a crop balanced over tumour and background."""
    prepare: list[MapTransform] = [
        LoadImaged([*MODALITIES, "label"]),
        EnsureChannelFirstd([*MODALITIES, "label"]),
        ConcatItemsd(MODALITIES, "image"),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]
    crop = [RandCropByPosNegLabeld(["image", "label"], "label", PATCH, 3, 1, num_samples=1)]
    keys = ["image", "label"]
    angle = 15 * 3.14159265 / 180
    changes = [
        OneOf(
            [
                RandRotated(keys, x, y, z, prob=0.5, mode=["bilinear", "nearest"])
                for x, y, z in ((angle, 0.0, 0.0), (0.0, angle, 0.0), (0.0, 0.0, angle))
            ]
        ),
        *[RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)],
        RandScaleIntensityd("image", 0.1, prob=1.0, channel_wise=True),
        RandShiftIntensityd("image", 0.1, prob=1.0, channel_wise=True),
    ]
    files = [
        {m: str(case.images[m].path) for m in MODALITIES} | {"label": str(case.label)}
        for case in cases
    ]
    transforms = Compose([*prepare, *crop, *(changes if augmented else [])])
    return PersistentDataset(files, transforms, cache_dir=folder)


def own_patches(
    root: Path,
    folder: Path,
    augmentation: Kind,
    size: tuple[int, ...] = PATCH,
    spacing: float = 1.0,
) -> PatchDataset:
    """This repository's way."""
    data = BraTSPatchDataModule(root=str(root), cache_dir=str(folder), spacing=spacing)
    data.prepare_data()
    cases = [case for case in data.cases.values() if case.labelled]
    return PatchDataset(cases, size, 1000, 0, augmentation)


def drawer(dataset: PersistentDataset | PatchDataset, cases: int) -> Callable[[int], object]:
    """Patch number `i`, the cases in turn."""
    return lambda i: dataset[i % cases if isinstance(dataset, PersistentDataset) else i]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled BraTS cases")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    cases = find_cases(options.data)
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, augmented in (("plain patch", False), ("augmented patch", True)):
            peer = monai_patches(cases, Path(folder, "monai"), augmented)
            own = own_patches(options.data, Path(folder, "own"), augmented)
            figures[name] = take_turns(
                drawer(own, len(cases)), drawer(peer, len(cases)), options.repeats
            )
        costs = {}
        for edge, spacing in SIZES.items():
            changed, plain = (
                own_patches(options.data, Path(folder, "own"), kind, (edge,) * 3, spacing)
                for kind in ("randomised", True)
            )
            costs[f"randomised patch of {edge}^3 over an augmented one"] = take_turns(
                drawer(changed, len(cases)), drawer(plain, len(cases)), options.repeats
            )
    goals = {"plain patch": 8.0, "augmented patch": 2.0}
    report("128^3 patch of four modalities, seconds", figures, goals, options.out, costs)


if __name__ == "__main__":
    main()
