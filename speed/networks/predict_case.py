"""Predicting one real case with late fusion of both backbones, against the plain MONAI way.

    python -m speed.networks.predict_case --data DIR [--case ID] [--size base] [--out FILE.json]

Both ways read four gzipped NIfTI files and write one label map: ours in the brain box with the
precision and memory layout chosen for this processor, MONAI's on the full grid in fp32. Windows
of 128 voxels, overlap 0.5, Gaussian, in both.

The weights are random, seeded; then the last layer alone is fitted to this patient's label. The
result is no useful model, but its masks have the size and the borders of a tumour: those of random
weights are noise, which changes with every rounding.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import monai
import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.transforms import (
    Compose,
    ConcatItemsd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
)
from torch import Tensor, nn

from backbones import DynUNet, SegResNet
from datamodules.cases.cache import prepare_cases
from datamodules.cases.case import PreparedCase
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.layouts.conventions import REGIONS
from datamodules.patients.find import find_cases
from evaluation.metrics.scores import dice
from fusion import LateFusion
from lightning_modules.inference import Execution, SlidingWindow, choose_execution
from lightning_modules.losses import DiceBCELoss
from speed.timing import hardware

OVERLAP = 0.5
GOAL_RATIO, GOAL_DICE = 4.0, 0.995


class Fused(nn.Module):
    """Late fusion of both backbones, as `lightning predict` runs it."""

    def __init__(self, size: Literal["tiny", "base"]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.networks: list[Any] = [DynUNet(4, 3, size=size), SegResNet(4, 3, size=size)]
        self.registered = nn.ModuleList(self.networks)  # train and eval reach them
        self.fusion = LateFusion()

    def forward(self, image: Tensor) -> Tensor:
        """Return fused logits (B, 3, D, H, W)."""
        return self.fusion([], [network(image) for network in self.networks])


def fit_heads(model: Fused, case: PreparedCase, patch: int, steps: int) -> None:
    """Fit the last layer of every network to this patient's label, in one window on the tumour."""
    mask = torch.from_numpy(case.mask())
    centre = np.argwhere(mask[0].numpy()).mean(0).round().astype(int)
    start = np.clip(centre - patch // 2, 0, np.maximum(0, np.array(case.shape) - patch))
    box = (slice(None), *(slice(place, place + patch) for place in start))
    window = torch.from_numpy(np.array(case.image[box], np.float32))[None]
    target = mask[box][None, :, ::2, ::2, ::2]
    loss_function = DiceBCELoss()
    for network in model.networks:
        with torch.no_grad():
            features = network.features(window)[..., ::2, ::2, ::2].contiguous()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.03)  # the head alone has gradients
        for _ in range(steps):
            loss = loss_function(network.head(features), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def own_way(
    model: Fused, files: CaseFiles, patch: int, execution: Execution, folder: Path
) -> np.ndarray:
    """NIfTI to NIfTI as `lightning predict` does it; return the label map."""
    (case,) = prepare_cases([files], folder / "cache", 1.0, progress=False)
    image = torch.from_numpy(np.asarray(case.image, np.float32))[None]
    window = SlidingWindow((patch,) * 3, OVERLAP, execution=execution)
    native = case.to_native(window(model, image)[0])
    labels = case.convention.from_regions(native > 0.5)
    case.save_native(labels, folder / case.prediction_name, np.uint8)
    return labels


def read_with_monai(files: CaseFiles) -> Tensor:
    """Return the normalised images (1, 4, *S) in canonical order."""
    read = Compose(
        [
            LoadImaged(MODALITIES, ensure_channel_first=True),
            Orientationd(MODALITIES, "RAS", labels=None),
            ConcatItemsd(MODALITIES, "image"),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    image = read({name: str(files.images[name].path) for name in MODALITIES})["image"]
    return image.as_tensor()[None]


def monai_way(model: Fused, files: CaseFiles, patch: int, folder: Path) -> Tensor:
    """NIfTI to NIfTI on the full grid in fp32; return the probabilities (3, *S), canonical."""
    image = read_with_monai(files)
    with torch.no_grad():
        maps: list[Any] = [
            sliding_window_inference(
                image,
                (patch,) * 3,
                1,
                lambda window, network=network: torch.sigmoid(network(window)),
                overlap=OVERLAP,
                mode="gaussian",
            )
            for network in model.networks
        ]
    probabilities: Tensor = torch.stack(maps).mean(0)[0]
    labels = files.convention.from_regions((probabilities > 0.5).numpy())
    first = nib.load(files.images[MODALITIES[0]].path)
    turned = nib.as_closest_canonical(first)
    nib.save(nib.Nifti1Image(labels, turned.affine), folder / "monai.nii.gz")
    return probabilities


def agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    """Return the Dice of every region between two probability maps (3, *S)."""
    pairs = zip(REGIONS, first > 0.5, second > 0.5, strict=True)
    return {region: round(dice(one, other), 5) for region, one, other in pairs}


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result of a call, its seconds, and the processor seconds of all threads."""
    start, used = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - start, time.process_time() - used


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BraTS cases")
    parser.add_argument("--case", help="id of the case; the first unless given")
    parser.add_argument("--size", default="base", choices=["tiny", "base"])
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=150, help="steps of fitting each last layer")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    cases = find_cases(options.data)
    files = next(case for case in cases if options.case in (None, case.case_id))
    execution = choose_execution("cpu")
    chosen = f"{execution.precision}, {'channels-last' if execution.channels_last else 'plain'}"
    model = Fused(options.size)
    load = [os.getloadavg()[0]]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (case,) = prepare_cases([files], folder / "training", 1.0, progress=False)
        fit_heads(model.eval(), case, options.patch, options.steps)
        labels, own, own_cpu = timed(
            lambda: own_way(model, files, options.patch, execution, folder)
        )
        print(f"ours: {own:.1f} s ({chosen}, box {'x'.join(map(str, case.shape))})", flush=True)
        full, peer, peer_cpu = timed(lambda: monai_way(model, files, options.patch, folder))
        print(f"MONAI: {peer:.1f} s (fp32, {'x'.join(map(str, full.shape[1:]))})", flush=True)
        load.append(os.getloadavg()[0])

        # The same intensities and the same windows, in the box: rounding apart from the box.
        geometry = case.geometry
        spans = zip(geometry.start, geometry.box, strict=True)
        box = (slice(None), *(slice(start, start + size) for start, size in spans))
        boxed = read_with_monai(files)[(slice(None), *box)]
        windows = {
            kind: SlidingWindow((options.patch,) * 3, OVERLAP, execution=one)
            for kind, one in {"fp32": Execution(), "chosen": execution}.items()
        }
        maps = {kind: window(model, boxed)[0] for kind, window in windows.items()}
        reference = case.mask() > 0.5

    rounding = agreement(maps["chosen"], maps["fp32"])
    effect = agreement(maps["fp32"], full[box])
    own_labels = case.convention.to_regions(geometry.crop(labels))
    pairs = zip(REGIONS, own_labels, reference, strict=True)
    quality = {region: round(dice(ours, theirs), 3) for region, ours, theirs in pairs}
    result = {
        "title": "one case, four NIfTI in to one NIfTI out, late fusion of both backbones",
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 1) for value in load],
        "versions": {"torch": torch.__version__, "monai": monai.__version__},
        "case": files.case_id,
        "size": options.size,
        "weights": f"random (seed 0), last layers fitted to this patient in {options.steps} steps",
        "execution": execution.to_dict(),
        "own_seconds": round(own, 2),
        "peer_seconds": round(peer, 2),
        "ratio": round(peer / own, 2),
        "own_cpu_seconds": round(own_cpu, 1),
        "peer_cpu_seconds": round(peer_cpu, 1),
        "cpu_ratio": round(peer_cpu / own_cpu, 2),
        "dice_chosen_against_fp32_same_windows": rounding,
        "dice_box_against_full_grid_fp32": effect,
        "dice_against_reference": quality,
        "goals": {"ratio": GOAL_RATIO, "dice_chosen_against_fp32": GOAL_DICE},
    }
    print(f"{result['title']} ({result['hardware']}, load {load[0]:.1f} to {load[1]:.1f})")
    print(
        f"  {own:.1f} s against {peer:.1f} s: ratio {peer / own:.1f} (goal {GOAL_RATIO:g}; "
        f"{peer_cpu / own_cpu:.1f} in processor time)"
    )
    print(f"  masks, {chosen} against fp32, same windows: Dice {rounding} (goal {GOAL_DICE:g})")
    print(f"  masks, brain box against full grid, both fp32: Dice {effect}")
    print(f"  masks against the reference of this patient, so that they are some: Dice {quality}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
