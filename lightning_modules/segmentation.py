"""Base class of segmentation modules: sliding window, metrics, test and prediction."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.layouts.conventions import LabelConvention
from errors import InputError
from evaluation.metrics.calibration import Reliability, measure_reliability
from evaluation.metrics.postprocessing import Postprocessing
from evaluation.metrics.scores import RegionDice, score_case
from evaluation.tables.per_case import is_metric, mean_scores
from lightning_modules.base import TrainingModule
from lightning_modules.contracts.protocols import NativeCase
from lightning_modules.contracts.settings import UseSettings
from lightning_modules.inference import SlidingWindow

UNPROCESSED = "unprocessed/"  # columns of scores before post-processing


def nest(regions: Tensor) -> Tensor:
    """Return regions (B, R, *S), bool, nested as in the composed label map: ET in TC in WT.

    One region stays as it is. The same as ``LabelConvention.from_regions`` and back, without
    leaving the device.
    """
    if regions.shape[1] == 1:
        return regions
    whole, core, enhancing = regions.unbind(dim=1)
    core = core | enhancing
    return torch.stack([whole | core, core, enhancing], dim=1)


class SegmentationModule(TrainingModule):
    """Train, test and apply a segmentation network of any architecture.

    A subclass defines ``forward(image) -> logits``. Patients are scored whole: probabilities of
    a sliding window over the prepared volume select the checkpoint, and ``test`` scores the
    composed label map on the original grid against the original label.

    Args:
        loss: called as ``loss(logits, mask)``, both (B, R, *spatial); logits arrive in fp32.
        overlap: share of a sliding window that its neighbour covers again.
        postprocessing: rules on the label maps of test and predict; null: none. Validation, which
            selects the checkpoint, never uses them.
        **training: optimizer, scheduler, precision.
    """

    convention: LabelConvention | None = None  # label values of its masks; None: the patient's own

    def __init__(
        self,
        loss: nn.Module,
        overlap: float = 0.5,
        postprocessing: Postprocessing | None = None,
        **training: Any,
    ) -> None:
        super().__init__(loss=loss, **training)
        if not 0 <= overlap < 1:
            raise InputError(f"model.overlap is {overlap}: expected a share from 0 to below 1.")
        self.overlap = overlap
        self.usage = UseSettings(postprocessing)
        self.dice = RegionDice(self.regions)
        self.test_rows: list[dict[str, Any]] = []
        self.reliability: dict[str, dict[str, Reliability]] = {}  # by test case and region

    def configure_for_use(self, settings: UseSettings) -> None:
        """Apply the settings of test and predict to the model."""
        self.usage = settings

    def forward_with_terms(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and, by name, further terms of the loss, already weighted."""
        return self(image), {}

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss of a batch; every further term is logged by its name."""
        # channels-last, where chosen, saves a third of a step of the tiny networks
        step = self.compiled(self.forward_with_terms)
        logits, terms = step(self.execution.arrange(batch["image"]))
        loss = self.region_loss(logits.float(), batch["mask"])
        for name, term in terms.items():
            self.log_train(name, term, batch)
            loss = loss + term
        return loss

    def region_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of logits and masks, both (B, R, *spatial)."""
        loss: Tensor = self.loss(logits, mask)
        return loss

    def window(self, **changes: Any) -> SlidingWindow:
        """Return the sliding window of inference.

        Raises:
            InputError: when the patch size of training is unknown.
        """
        if self.patch_size is None:
            raise InputError(
                "The model does not know the patch size of its training, so it cannot segment "
                "whole volumes: load it from a checkpoint, or set patch_size."
            )
        settings = {"overlap": self.overlap, "tta": self.usage.tta, "execution": self.execution}
        return SlidingWindow(self.patch_size, **{**settings, **changes})

    def probabilities(self, image: Tensor) -> Tensor:
        """Return region probabilities (B, R, *spatial) of whole volumes (B, M, *spatial)."""
        return self.window()(self, image)

    def map_channels(self) -> dict[str, tuple[str, ...]]:
        """Return the maps that the network can show, each with the names of its channels."""
        return {}

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the network's maps of a patch (B, M, *patch), each (B, K, *patch)."""
        return {}

    def whole_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the network's maps of whole volumes (B, M, *spatial), blended over windows."""
        names = list(self.map_channels())

        def together(window: Tensor) -> Tensor:
            found = self.maps(window)
            return torch.cat([found[name] for name in names], dim=1)

        blended = self.window(activation=torch.nn.Identity())(together, image)
        parts = blended.split([len(channels) for channels in self.map_channels().values()], dim=1)
        return dict(zip(names, parts, strict=True))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one whole volume on the prepared grid.

        Returns:
            ``case``, ``predicted`` and ``reference`` (R, *spatial), bool arrays.
        """
        probabilities = self.probabilities(batch["image"])
        self.watch(probabilities, batch)
        regions, reference = nest(probabilities > 0.5), batch["mask"] > 0.5
        self.dice.update(regions, reference, batch["case_id"])
        return {
            "case": batch["case"][0],
            "predicted": regions[0].cpu().numpy(),
            "reference": reference[0].cpu().numpy(),
        }

    def watch(self, probabilities: Tensor, batch: dict[str, Any]) -> None:
        """Log more on the probabilities (B, R, *spatial) of a validation patient than Dice."""

    def on_validation_epoch_end(self) -> None:
        """Log the mean Dice of every region over the patients, each counted once."""
        for region, value in self.dice.compute().items():
            self.log(f"val/dice/{region}", value, sync_dist=True)  # equal on every rank already
        self.validation_cases = self.dice.per_case()
        self.dice.reset()

    def segment(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Segment one patient on the original grid.

        Returns:
            ``case``, ``probabilities`` (R, *native) in fp32, ``labels`` (*native), uint8 in the
            values of `convention_of` the patient, and its ``regions`` (R, *native), bool; with
            post-processing, also the regions before it as ``unprocessed``.
        """
        return self.postprocess(self.assemble(batch, self.probabilities(batch["image"])[0]))

    def assemble(self, batch: dict[str, Any], probabilities: Tensor) -> dict[str, Any]:
        """Bring one patient's probabilities to the original grid and compose the label map."""
        case: NativeCase = batch["case"][0]
        native = case.to_native(probabilities.float().cpu())
        labels = self.label_map(case, native > 0.5)
        regions = self.convention_of(case).to_regions(labels)[: len(self.regions)]
        return {"case": case, "probabilities": native, "labels": labels, "regions": regions}

    def convention_of(self, case: NativeCase) -> LabelConvention:
        """Return the convention of the label values in a patient's predicted label map."""
        return self.convention or case.convention

    def label_map(self, case: NativeCase, regions: np.ndarray) -> np.ndarray:
        """Return the label map (*native), uint8, of regions (R, *native)."""
        return self.convention_of(case).from_regions(regions)

    def postprocess(self, result: dict[str, Any]) -> dict[str, Any]:
        """Apply post-processing, if any, to one patient's regions and label map."""
        rules = self.usage.postprocessing
        if rules is None:
            return result
        case, unprocessed = result["case"], result["regions"]
        regions = rules(unprocessed, case.native_spacing)
        labels = self.label_map(case, regions)
        return {**result, "labels": labels, "regions": regions, "unprocessed": unprocessed}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one patient's composed label map on the original grid."""
        result = self.segment(batch)
        row = {"case_id": result["case"].case_id, **self.score(result, batch)}
        if "unprocessed" in result:
            before = self.score({**result, "regions": result["unprocessed"]}, batch)
            row |= {UNPROCESSED + name: value for name, value in before.items() if is_metric(name)}
        self.test_rows.append(row)
        if batch.get("whole", [True])[0]:  # else other slices of this patient were trained on
            pairs = zip(result["probabilities"], result["case"].native_regions(), strict=True)
            counts = [measure_reliability(ours, theirs) for ours, theirs in pairs]
            self.reliability[row["case_id"]] = dict(zip(self.regions, counts, strict=True))
        return result

    def score(self, result: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Return one patient's scores and volumes in ml, by the names of ``per_case.csv``."""
        case = result["case"]
        predicted, reference = result["regions"], case.native_regions()
        spacing = case.native_spacing
        scores = score_case(predicted, reference, spacing, self.regions, self.usage.empty_rule)
        return {**scores, **self.volumes(case, reference)}

    def volumes(self, case: NativeCase, reference: np.ndarray) -> dict[str, float]:
        """Return the ml of every region of a patient's reference (R, *native)."""
        voxel_ml = float(np.prod(case.native_spacing)) / 1000
        return {
            f"volume_ml/{region}": round(float(mask.sum()) * voxel_ml, 3)
            for region, mask in zip(self.regions, reference, strict=True)
        }

    def on_test_epoch_end(self) -> None:
        """Gather the cases of all ranks, each once, in the order of their ids."""
        rows = self.test_rows
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (rows, self.reliability))
            rows = [row for part, _ in gathered for row in part]
            self.reliability = {name: one for _, part in gathered for name, one in part.items()}
        self.reliability = dict(sorted(self.reliability.items()))
        unique = {row["case_id"]: row for row in rows}
        self.test_rows = [unique[case_id] for case_id in sorted(unique)]
        for name, value in mean_scores(self.test_rows).items():
            self.log(f"test/{name}", value)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Segment one patient without a label; with ``maps`` (K, *native) where requested."""
        result = self.segment(batch)
        if self.usage.shows_maps:
            case = result["case"]
            found = self.whole_maps(batch["image"])
            result["maps"] = {name: case.to_native(one[0].cpu()) for name, one in found.items()}
        return result
