"""What the systems of the 2D study share: one patient is a stack of axial slices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.layouts import MODALITIES
from errors import InputError
from evaluation.metrics import BRATS, EmptyRule, SliceDice, dice, hd95, score_case
from lightning_modules.inference import SlidingWindow
from lightning_modules.pretrained import read_pretrained
from lightning_modules.segmentation import SegmentationModule

SliceNetworkFactory = Callable[[int, int, str, int], nn.Module]


class SliceModule(SegmentationModule):
    """Segment the whole tumour slice by slice; a subclass says what ``forward`` is.

    The checkpoint is selected by the Dice of the selected slices, averaged within a patient first.
    ``test`` scores them and the whole volume apart, on the original grid.

    Args:
        image_size: pixels along either side of a slice, as ``data.slice_size``.
        **training: loss, optimizer, scheduler, overlap, precision.
    """

    regions: tuple[str, ...] = ("WT",)
    per_slice = True
    slices_per_pass = 8

    def __init__(self, image_size: int = 256, **training: Any) -> None:
        super().__init__(**training)
        self.image_size = image_size
        self.dice = SliceDice(self.regions)

    def check_patch(self, patch_size: Sequence[int], *, bf16_on_cpu: bool = False) -> None:
        """Hold the size of the slices against the network's, then pass their shape through it."""
        if tuple(patch_size) != (self.image_size, self.image_size):
            raise InputError(
                f"data.slice_size is {patch_size[0]} and model.image_size {self.image_size}: "
                "set both to the same number of pixels."
            )
        super().check_patch(patch_size, bf16_on_cpu=bf16_on_cpu)

    # -- whole patients ----------------------------------------------------------------------------

    def probabilities(self, image: Tensor) -> Tensor:
        """Return probabilities (1, S, 1, H, W) of a patient's slices (1, S, M, H, W)."""
        size = (self.image_size, self.image_size)
        passes = SlidingWindow(
            size, overlap=0, tta=self.tta, execution=self.execution, batch_size=self.slices_per_pass
        )
        return passes(self, image[0])[None]

    def selected_probabilities(self, batch: dict[str, Any]) -> Tensor:
        """Return probabilities (N, 1, H, W) of the slices that the selection rule chose."""
        return self.probabilities(batch["image"][:, batch["selected"][0]])[0]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one patient's selected slices on the prepared grid.

        Returns:
            ``case``, ``predicted`` and ``reference`` (1, *prepared), bool arrays; what was not
            selected is not predicted.
        """
        case, selected = batch["case"][0], batch["selected"][0]
        reference = batch["mask"][0] > 0.5  # (S, 1, H, W)
        predicted = torch.zeros_like(reference)
        if bool(selected.any()):  # a patient without tumour has no slice to be selected
            predicted[selected] = self.selected_probabilities(batch) > 0.5
            self.dice.update(predicted[selected], reference[selected], case.case_id)
        return {
            "case": case,
            "predicted": case.from_slices(predicted.cpu().numpy()) > 0.5,
            "reference": case.from_slices(reference.cpu().numpy()) > 0.5,
        }

    def assemble(self, batch: dict[str, Any], probabilities: Tensor) -> dict[str, Any]:
        """Bring one patient's slices (S, 1, H, W) to his original grid: 1 is tumour."""
        case = batch["case"][0]
        native = case.to_native(probabilities.cpu().numpy())
        regions = native > 0.5
        return {
            "case": case,
            "probabilities": native,
            "labels": regions[0].astype(np.uint8),
            "regions": regions,
        }

    def score(self, result: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Score one patient: his selected slices, averaged, and apart from them his volume."""
        case, predicted, reference = (
            result["case"],
            result["regions"],
            result["case"].native_regions(),
        )
        selected = batch["selected"][0].cpu().numpy()
        pixel = case.native_pixel
        ours, theirs = (case.native_slices(mask[0])[selected] for mask in (predicted, reference))
        diagonal = float(np.hypot(*(n * mm for n, mm in zip(ours.shape[1:], pixel, strict=True))))
        rule = EmptyRule("slice", BRATS.dice_both, BRATS.dice_one, BRATS.hd95_both, diagonal)
        pairs = list(zip(ours, theirs, strict=True))
        row: dict[str, Any] = {"slices": len(pairs)}
        if pairs:  # a patient without tumour has no slice to be selected
            row["slices/dice/WT"] = float(np.mean([dice(a, b, rule) for a, b in pairs]))
            row["slices/hd95/WT"] = float(np.mean([hd95(a, b, pixel, rule) for a, b in pairs]))
        if batch.get("whole", [True])[0]:
            row |= score_case(predicted, reference, case.native_spacing, self.regions)
        voxel_ml = float(np.prod(case.native_spacing)) / 1000
        return {**row, "volume_ml/WT": round(float(reference[0].sum()) * voxel_ml, 3)}


class SliceBackboneModule(SliceModule):
    """Train one network of ``backbones`` on slices of all four modalities.

    Args:
        network: a class of ``backbones``, built as ``network(4, 1, size, image_size)``.
        size: named size of the network: tiny for a CPU, base as in its paper.
        weights: file of pretrained weights in the form its authors published; null: random.
        **training: image_size, loss, optimizer, scheduler, overlap, precision.
    """

    def __init__(
        self,
        network: SliceNetworkFactory,
        size: Literal["tiny", "base"] = "tiny",
        weights: str | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        built: Any = network(len(MODALITIES), len(self.regions), size, self.image_size)
        self.network = built
        self.origin = "random weights"
        if weights is not None:
            absent = built.load_pretrained(read_pretrained(weights))
            self.origin = f"{weights}, {len(absent)} tensors are not in it and stay random"

    def forward(self, image: Tensor) -> Tensor:
        """Map slices (B, 4, H, W) to logits (B, 1, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def remarks(self) -> list[str]:
        """Return where the weights began."""
        return [f"training began from {self.origin}"]
