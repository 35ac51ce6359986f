"""Base class of the 2D study: a patient is a stack of axial slices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.layouts.conventions import WHOLE_TUMOUR, read_regions
from errors import InputError
from evaluation.metrics.scores import SliceDice, score_slices, slice_rule
from lightning_modules.inference import SlidingWindow
from lightning_modules.segmentation import SegmentationModule, nest


class SliceModule(SegmentationModule):
    """Segment the whole tumour, or WT, TC and ET, slice by slice; a subclass defines ``forward``.

    The loss is that of one region, averaged over the regions. The checkpoint is selected by the
    Dice of the selected slices, averaged within a patient first. ``test`` scores them, and
    separately the whole volume, on the original grid.

    Args:
        image_size: pixels along either side of a slice, as ``data.slice_size``.
        regions: WT alone or WT, TC and ET; null: WT. It follows ``data.regions``, so it is not set.
        **training: loss, optimizer, scheduler, overlap, postprocessing, precision.
    """

    regions = WHOLE_TUMOUR.regions
    per_slice = True
    slices_per_pass = 8
    dice: SliceDice

    def __init__(
        self, image_size: int = 256, regions: list[str] | None = None, **training: Any
    ) -> None:
        # before the parent class, which makes metrics and the card of them
        self.regions = read_regions(regions or WHOLE_TUMOUR.regions, "model.regions")
        super().__init__(**training)
        if len(self.regions) == 1:
            self.convention = WHOLE_TUMOUR  # else the patient's own
        self.image_size = image_size
        self.dice = SliceDice(self.regions)

    def check_patch(self, patch_size: Sequence[int], *, bf16_on_cpu: bool = False) -> None:
        """Check that the slices have the network's size, then pass their shape through it."""
        if tuple(patch_size) != (self.image_size, self.image_size):
            raise InputError(
                f"data.slice_size is {patch_size[0]} and model.image_size {self.image_size}: "
                "set both to the same number of pixels."
            )
        super().check_patch(patch_size, bf16_on_cpu=bf16_on_cpu)

    def region_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over the regions of the loss of one; logits and masks are (B, R, H, W).

        MONAI's losses of several channels take a softmax over them, but regions overlap.
        """
        pairs = zip(logits.split(1, dim=1), mask.split(1, dim=1), strict=True)
        return torch.stack([self.loss(*pair) for pair in pairs]).mean()

    def probabilities(self, image: Tensor) -> Tensor:
        """Return probabilities (1, S, R, H, W) of a patient's slices (1, S, M, H, W).

        Raises:
            InputError: when the slices differ in size from those of training.
        """
        size = (self.image_size, self.image_size)
        if tuple(image.shape[-2:]) != size:
            raise InputError(
                f"The slices have {image.shape[-1]} pixels and the network was trained on "
                f"{self.image_size}: leave data.slice_size as the checkpoint has it."
            )
        passes = SlidingWindow(
            size,
            overlap=0,
            tta=self.usage.tta,
            execution=self.execution,
            batch_size=self.slices_per_pass,
        )
        return passes(self, image[0])[None]

    def selected_probabilities(self, batch: dict[str, Any]) -> Tensor:
        """Return probabilities (N, R, H, W) of the selected slices."""
        return self.probabilities(batch["image"][:, batch["selected"][0]])[0]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one patient's selected slices on the prepared grid.

        Returns:
            ``case``, ``predicted`` and ``reference`` (R, *prepared), bool arrays; slices that were
            not selected are empty in the prediction.
        """
        selected = batch["selected"][0]
        probabilities = torch.zeros_like(batch["mask"][0])
        if bool(selected.any()):  # a patient without tumour has no slice to be selected
            probabilities[selected] = self.selected_probabilities(batch)
        return self.score_slices(batch, probabilities, self.dice)

    def score_slices(
        self, batch: dict[str, Any], probabilities: Tensor, metric: SliceDice
    ) -> dict[str, Any]:
        """Score one patient's probabilities (S, R, H, W) on the selected slices."""
        case, selected = batch["case"][0], batch["selected"][0]
        predicted, reference = nest(probabilities > 0.5), batch["mask"][0] > 0.5
        if bool(selected.any()):
            metric.update(predicted[selected], reference[selected], case.case_id)
        return {
            "case": case,
            "predicted": case.from_slices(predicted.cpu().numpy()) > 0.5,
            "reference": case.from_slices(reference.cpu().numpy()) > 0.5,
        }

    def score(self, result: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Score one patient: the mean over the selected slices and, separately, the volume."""
        case, predicted = result["case"], result["regions"]
        reference = case.native_regions()
        selected = batch["selected"][0].cpu().numpy()
        pixel = case.native_pixel
        row: dict[str, Any] = {
            "slices": int(selected.sum()),
            "empty_rule": self.usage.empty_rule.name,
        }
        for region, *masks in zip(self.regions, predicted, reference, strict=True):
            if not selected.any():
                break  # a patient without tumour has no slice to be selected
            ours, theirs = (case.native_slices(mask)[selected] for mask in masks)
            sides = zip(ours.shape[1:], pixel, strict=True)
            rule = slice_rule(float(np.hypot(*(n * mm for n, mm in sides))), self.usage.empty_rule)
            means = score_slices(ours, theirs, pixel, rule)
            row |= {f"slices/{metric}/{region}": value for metric, value in means.items()}
        if batch.get("whole", [True])[0]:
            return {**row, **super().score(result, batch)}
        return {**row, **self.volumes(case, reference)}
