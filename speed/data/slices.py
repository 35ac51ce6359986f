"""A training slice out of the cache, against MONAI's PersistentDataset of single slices.

    python -m speed.data.slices --data DIR [--out FILE.json]

Both sides start from their own prepared cache of the same slices, normalised and padded to 256
pixels, four modalities with their mask; first as they lie, then with rotation (probability 0.5, up
to 15 degrees), two flips, intensity scale and shift. MONAI's cache holds one file a slice, its
fastest form on disk. Sides take turns in one process and on one thread, as in a loader process.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandRotated,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
    Transform,
)

from datamodules.layouts.case_files import MODALITIES
from datamodules.slices.datamodule import RegisteredSliceDataModule
from datamodules.slices.dataset import SliceDataset
from speed.timing import report, take_turns

SIZE = 256


class CutSlice(Transform):
    """One axial slice of a dictionary's volumes, the brain box around it."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Image (4, h, w) and mask (1, h, w) instead of volumes."""
        image, label = sample["image"], sample["label"]
        inside = (image != 0).any(0)
        rows, columns = inside.any(1).any(1).nonzero()[:, 0], inside.any(0).any(1).nonzero()[:, 0]
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        index = sample["index"]
        return {"image": image[:, *box, index], "label": (label[:, *box, index] != 0).float()}


def monai_slices(
    data: RegisteredSliceDataModule, places: Sequence[tuple[str, int]], folder: Path, changed: bool
) -> PersistentDataset:
    """MONAI's way."""
    keys = ["image", "label"]
    prepare = [
        LoadImaged([*MODALITIES, "label"]),
        EnsureChannelFirstd([*MODALITIES, "label"]),
        ConcatItemsd(MODALITIES, "image"),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        CutSlice(),
        SpatialPadd(keys, (SIZE, SIZE)),
    ]
    changes = [
        RandRotated(keys, np.deg2rad(15), prob=0.5, mode=["bilinear", "nearest"]),
        *[RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(2)],
        RandScaleIntensityd("image", 0.1, prob=1.0, channel_wise=True),
        RandShiftIntensityd("image", 0.1, prob=1.0, channel_wise=True),
    ]
    files = [
        {m: str(data.cases[case_id].files.images[m].path) for m in MODALITIES}
        | {"label": str(data.cases[case_id].files.label)}
        | {"index": index + data.cases[case_id].geometry.start[2]}
        for case_id, index in places
    ]
    return PersistentDataset(files, Compose([*prepare, *(changes if changed else [])]), folder)


def drawer(dataset: PersistentDataset | SliceDataset, slices: int) -> Callable[[int], object]:
    """Slice number `i`, all in turn."""
    return lambda i: dataset[i % slices]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled BraTS cases")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        data = RegisteredSliceDataModule(root=str(options.data), cache_dir=f"{folder}/own")
        data.prepare_data()
        places = [
            (case_id, index)
            for case_id, case in sorted(data.cases.items())
            for index in np.flatnonzero(case.tumour_area)[::9].tolist()
        ]
        for name, changed in (("plain slice", False), ("augmented slice", True)):
            slices = [(data.cases[case_id], index) for case_id, index in places]
            own = SliceDataset(slices, len(slices), 0, changed)
            peer = monai_slices(data, places, Path(folder, "monai"), changed)
            for number in range(len(places)):  # fills both caches
                own[number], peer[number]
            figures[name] = take_turns(
                drawer(own, len(places)), drawer(peer, len(places)), options.repeats
            )
    goals = {"plain slice": 1.0, "augmented slice": 1.0}
    report("256^2 slice of four modalities, seconds", figures, goals, options.out)


if __name__ == "__main__":
    main()
