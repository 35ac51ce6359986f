"""What the systems of the 2D study share: one patient is a stack of axial slices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from evaluation.metrics.scores import SliceDice, score_case, score_slices, slice_rule
from lightning_modules.inference import SlidingWindow
from lightning_modules.segmentation import SegmentationModule
from lightning_modules.weights.checkpoints import KEY, set_arguments
from lightning_modules.weights.pretrained import read_pretrained

SliceNetworkFactory = Callable[[int, int, str, int], nn.Module]


class SliceModule(SegmentationModule):
    """Segment the whole tumour slice by slice; a subclass says what ``forward`` is.

    The checkpoint is selected by the Dice of the selected slices, averaged within a patient first.
    ``test`` scores them and the whole volume apart, on the original grid.

    Args:
        image_size: pixels along either side of a slice, as ``data.slice_size``.
        **training: loss, optimizer, scheduler, overlap, postprocessing, precision.
    """

    regions: tuple[str, ...] = ("WT",)
    per_slice = True
    slices_per_pass = 8

    def __init__(self, image_size: int = 256, **training: Any) -> None:
        super().__init__(**training)
        self.image_size = image_size
        self.dice: Any = SliceDice(self.regions)

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
        """Return probabilities (1, S, 1, H, W) of a patient's slices (1, S, M, H, W).

        Raises:
            InputError: when the slices have another size than those of training.
        """
        size = (self.image_size, self.image_size)
        if tuple(image.shape[-2:]) != size:
            raise InputError(
                f"The slices have {image.shape[-1]} pixels and the network was trained on "
                f"{self.image_size}: leave data.slice_size as the checkpoint has it."
            )
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
        selected = batch["selected"][0]
        probabilities = torch.zeros_like(batch["mask"][0])
        if bool(selected.any()):  # a patient without tumour has no slice to be selected
            probabilities[selected] = self.selected_probabilities(batch)
        return self.score_slices(batch, probabilities, self.dice)

    def score_slices(
        self, batch: dict[str, Any], probabilities: Tensor, metric: SliceDice
    ) -> dict[str, Any]:
        """Score one patient's probabilities (S, 1, H, W) on the selected slices."""
        case, selected = batch["case"][0], batch["selected"][0]
        predicted, reference = probabilities > 0.5, batch["mask"][0] > 0.5
        if bool(selected.any()):
            metric.update(predicted[selected], reference[selected], case.case_id)
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
        labels = self.label_map(case, regions)
        return {"case": case, "probabilities": native, "labels": labels, "regions": regions}

    def label_map(self, case: Any, regions: np.ndarray) -> np.ndarray:
        """Return the label map (*native) of the whole tumour (1, *native): 1 is tumour."""
        return regions[0].astype(np.uint8)

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
        row: dict[str, Any] = {"slices": len(ours), "empty_rule": self.empty_rule.name}
        if len(ours):  # a patient without tumour has no slice to be selected
            means = score_slices(ours, theirs, pixel, slice_rule(diagonal, self.empty_rule))
            row |= {f"slices/{metric}/WT": value for metric, value in means.items()}
        if batch.get("whole", [True])[0]:
            spacing = case.native_spacing
            row |= score_case(predicted, reference, spacing, self.regions, self.empty_rule)
        voxel_ml = float(np.prod(case.native_spacing)) / 1000
        return {**row, "volume_ml/WT": round(float(reference[0].sum()) * voxel_ml, 3)}


class SliceBackboneModule(SliceModule):
    """Train one network of ``backbones`` on slices of all four modalities.

    Args:
        network: a class of ``backbones``, built as ``network(4, 1, size, image_size)``.
        size: named size of the network: tiny for a CPU, base as in its paper.
        weights: file of pretrained weights in the form its authors published; null: random.
        **training: image_size, loss, optimizer, scheduler, overlap, postprocessing, precision.
    """

    job_type = "backbone"

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
            self.origin = f"{weights}, {len(absent)} tensors are not in it and began random"

    def forward(self, image: Tensor) -> Tensor:
        """Map slices (B, 4, H, W) to logits (B, 1, H, W)."""
        logits: Tensor = self.network(image)
        return logits

    def remarks(self) -> list[str]:
        """Return where the weights began."""
        return [f"training began from {self.origin}"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note where the weights began; the file they came from is not needed again."""
        super().on_save_checkpoint(checkpoint)
        card = checkpoint[KEY]
        card["origin"] = self.origin
        set_arguments(card, weights=None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over where the weights began."""
        super().on_load_checkpoint(checkpoint)
        self.origin = str(self.card.get("origin", self.origin))
