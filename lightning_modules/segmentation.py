"""What every segmentation training shares: loss, optimiser, steps, sliding window, metrics."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import lightning as L  # noqa: N812, the name its own documentation uses
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from datamodules.layouts import MODALITIES, REGIONS, LabelConvention
from errors import InputError
from evaluation.metrics import RegionDice, score_case
from evaluation.tables import mean_scores
from lightning_modules.checkpoints import KEY
from lightning_modules.inference import Execution, SlidingWindow, choose_execution

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class NativeCase(Protocol):
    """One patient as the data module hands it over, with the way back to the original grid."""

    case_id: str
    convention: LabelConvention
    native_spacing: tuple[float, float, float]

    def to_native(self, probabilities: Tensor | np.ndarray) -> np.ndarray:
        """Bring (R, d, h, w) probabilities to the original grid, (R, *native)."""

    def native_regions(self) -> np.ndarray:
        """Return the reference as booleans (R, *native) from the original label file."""


def nest(regions: Tensor) -> Tensor:
    """Return regions (B, 3, *S), bool, as the composed label map holds them: ET in TC in WT.

    The same as ``LabelConvention.from_regions`` and back, without leaving the device.
    """
    whole, core, enhancing = regions.unbind(dim=1)
    core = core | enhancing
    return torch.stack([whole | core, core, enhancing], dim=1)


class SegmentationModule(L.LightningModule):
    """Train and apply one segmentation network; knows no architecture.

    A subclass says what ``forward(image) -> logits`` is. Patients are scored whole: probabilities
    of a sliding window over the prepared volume select the checkpoint, and ``test`` scores the
    composed label map on the original grid against the original label.

    Args:
        loss: called as ``loss(logits, mask)``, both (B, R, *spatial); logits arrive in fp32.
        optimizer: builds the optimiser from the trainable parameters; null is Adam 3e-4 with
            weight decay 1e-4, the paper's (its "3e-1" is a misprint).
        scheduler: builds a learning-rate scheduler from the optimiser, stepped once an epoch;
            ReduceLROnPlateau follows the mean validation Dice.
        overlap: share of a sliding window that its neighbour covers again.
        precision: arithmetic of inference: auto takes bf16 where the processor has it.
    """

    card: dict[str, Any]
    regions: tuple[str, ...] = REGIONS
    monitor = "val/dice/mean"  # selects the checkpoint
    monitor_mode: Literal["max", "min"] = "max"
    per_slice = False  # scores are means over slices first

    def __init__(
        self,
        loss: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        overlap: float = 0.5,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= overlap < 1:
            raise InputError(f"model.overlap is {overlap}: expected a share from 0 to below 1.")
        self.loss = loss
        self.optimizer_factory = optimizer
        self.scheduler_factory = scheduler
        self.overlap = overlap
        self.precision: Literal["auto", "fp32", "bf16"] = precision
        self.tta: Literal["none", "flips"] = "none"
        self.seed = 0
        self.augmented = True  # whether training changes its images from epoch to epoch
        self.patch_size: tuple[int, ...] | None = None
        self.dice = RegionDice(self.regions)
        self.test_rows: list[dict[str, Any]] = []
        self.card = {"model": None, "modalities": list(MODALITIES), "regions": list(self.regions)}

    def check_patch(self, patch_size: Sequence[int], *, bf16_on_cpu: bool = False) -> None:
        """Pass the shape of a patch through the network, without data or memory.

        Args:
            patch_size: voxels along every axis.
            bf16_on_cpu: whether the training will multiply in bf16 on a processor. There oneDNN's
                weight gradient of a 3x3x3 convolution on a grid two voxels deep reads memory that
                nobody wrote (seen with torch 2.13 on AMX: anything up to NaN, another at each run).

        Raises:
            InputError: when the network cannot take the patch, or cannot be trained on it.
        """
        shadow = copy.deepcopy(self).to("meta")
        shallow = []

        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].shape[2] == 2 and next(layer.parameters()).requires_grad:
                shallow.append(layer)

        for layer in shadow.modules():
            if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1 and layer.stride[0] == 1:
                layer.register_forward_pre_hook(look)
        image = torch.zeros(2, len(MODALITIES), *patch_size, device="meta")
        with torch.no_grad(), suppress(NotImplementedError):  # an operation without a meta kernel
            shadow(image)
        if shallow and bf16_on_cpu:
            raise InputError(
                f"data.patch_size {list(patch_size)} leaves two voxels of depth at the coarsest "
                "level, where bf16 training on a processor computes wrong gradients: set a larger "
                "first side, or --trainer.precision 32-true."
            )

    # -- training ----------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take the patch size of training from the data: inference repeats it exactly."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.patch_size = tuple(data.patch_size)

    def on_train_epoch_start(self) -> None:
        """Make the epoch's randomness (dropout) a function of seed, epoch and rank alone."""
        sequence = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss of a batch; a method with extra terms overrides this."""
        # channels-last where the processor likes it: a third of a step of the tiny networks
        logits = self(self.execution.arrange(batch["image"]))
        loss: Tensor = self.loss(logits.float(), batch["mask"])
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One optimisation step on a batch of patches."""
        loss = self.compute_loss(batch)
        self.log(
            "train/loss",
            loss.detach(),
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(batch["case_id"]),
        )
        return loss

    def configure_optimizers(self) -> Any:
        """Build optimiser and scheduler over the trainable parameters only."""
        trainable = [weight for weight in self.parameters() if weight.requires_grad]
        if self.optimizer_factory is None:
            optimizer: Optimizer = torch.optim.Adam(trainable, lr=3e-4, weight_decay=1e-4)
        else:
            optimizer = self.optimizer_factory(trainable)
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer)
        settings = {"scheduler": scheduler, "interval": "epoch", "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters in ``all`` and of those ``trained``."""
        weights = list(self.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        return {"all": sum(weight.numel() for weight in weights), "trained": trained}

    def remarks(self) -> list[str]:
        """Return what a reader of this run's scores has to know about the network."""
        return []

    # -- whole volumes -----------------------------------------------------------------------------

    @property
    def execution(self) -> Execution:
        """Precision and memory layout of inference on the present device."""
        return choose_execution(self.device, self.precision)

    def probabilities(self, image: Tensor) -> Tensor:
        """Return region probabilities (B, R, *spatial) of whole volumes (B, M, *spatial)."""
        if self.patch_size is None:
            raise InputError(
                "The model does not know the patch size of its training, so it cannot segment "
                "whole volumes: load it from a checkpoint, or set patch_size."
            )
        window = SlidingWindow(
            self.patch_size, overlap=self.overlap, tta=self.tta, execution=self.execution
        )
        return window(self, image)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one whole volume on the prepared grid.

        Returns:
            ``case``, ``predicted`` and ``reference`` (R, *spatial), bool arrays.
        """
        probabilities = self.probabilities(batch["image"])
        regions, reference = nest(probabilities > 0.5), batch["mask"] > 0.5
        self.dice.update(regions, reference, batch["case_id"])
        return {
            "case": batch["case"][0],
            "predicted": regions[0].cpu().numpy(),
            "reference": reference[0].cpu().numpy(),
        }

    def on_validation_epoch_end(self) -> None:
        """Log the mean Dice of every region over the patients, each counted once."""
        for region, value in self.dice.compute().items():
            self.log(f"val/dice/{region}", value, sync_dist=True)  # equal on every rank already
        self.validation_cases = self.dice.per_case()
        self.dice.reset()

    def segment(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Segment one patient on his original grid.

        Returns:
            ``case``, ``probabilities`` (R, *native) in fp32, ``labels`` (*native), uint8 in the
            label values of the patient's own layout, and its ``regions`` (R, *native), bool.
        """
        return self.assemble(batch, self.probabilities(batch["image"])[0])

    def assemble(self, batch: dict[str, Any], probabilities: Tensor) -> dict[str, Any]:
        """Bring one patient's probabilities to his original grid and compose his label map."""
        case: NativeCase = batch["case"][0]
        native = case.to_native(probabilities)
        labels = case.convention.from_regions(native > 0.5)
        regions = case.convention.to_regions(labels)
        return {"case": case, "probabilities": native, "labels": labels, "regions": regions}

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Score one patient's composed label map on the original grid."""
        result = self.segment(batch)
        self.test_rows.append({"case_id": result["case"].case_id, **self.score(result, batch)})
        return result

    def score(self, result: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Return one patient's scores and volumes in ml, by the names of ``per_case.csv``."""
        case = result["case"]
        predicted, reference = result["regions"], case.native_regions()
        scores = score_case(predicted, reference, case.native_spacing)
        voxel_ml = float(np.prod(case.native_spacing)) / 1000
        volumes = {
            f"volume_ml/{region}": round(float(mask.sum()) * voxel_ml, 3)
            for region, mask in zip(self.regions, reference, strict=True)
        }
        return {**scores, **volumes}

    def on_test_epoch_end(self) -> None:
        """Bring the patients of all ranks together, each once, in the order of their ids."""
        rows = self.test_rows
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        unique = {row["case_id"]: row for row in rows}
        self.test_rows = [unique[case_id] for case_id in sorted(unique)]
        for name, value in mean_scores(self.test_rows).items():
            self.log(f"test/{name}", value)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Segment one patient, no label needed."""
        return self.segment(batch)

    # -- checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card: what the checkpoint says about itself."""
        checkpoint[KEY] = {**self.card, "patch_size": list(self.patch_size or ())}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the card of a checkpoint, and with it the patch size of training."""
        self.card = dict(checkpoint[KEY])
        self.patch_size = tuple(self.card["patch_size"]) or None
