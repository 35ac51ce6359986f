"""Base class of all training modules: seed, optimiser, check of the patch size, card."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, ParamSpec, TypeVar

import lightning as L  # noqa: N812, the name its own documentation uses
import numpy as np
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from datamodules.layouts.case_files import MODALITIES
from datamodules.layouts.conventions import REGIONS
from errors import InputError
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.inference import Execution, choose_execution
from lightning_modules.optimisation.kernels import arrange_weights, fuse
from lightning_modules.optimisation.output_layer import OutputLayer
from lightning_modules.optimisation.schedules import WholeTraining
from lightning_modules.weights.checkpoints import KEY
from lightning_modules.weights.foreign import doubt

P = ParamSpec("P")
T = TypeVar("T")
TRAINED_WEIGHTS = "current_model_state"  # key, beside averaged weights in `state_dict`
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class TrainingModule(L.LightningModule):
    """Base of all training modules; a subclass defines the loss and what validation measures.

    Args:
        loss: minimised in training; its arguments depend on the subclass.
        optimizer: builds the optimiser from the trainable parameters; null is Adam 3e-4 with
            weight decay 1e-4, the dual-fusion paper's (its "3e-1" is a misprint).
        scheduler: builds a learning-rate scheduler from the optimiser, stepped once an epoch, but
            WarmupCosine and Polynomial of this project after every optimiser step;
            ReduceLROnPlateau follows ``monitor`` of the epochs that are validated.
        precision: arithmetic of inference; auto takes bf16 where the processor supports it.
    """

    card: dict[str, Any]
    regions: tuple[str, ...] = REGIONS
    monitor = "val/dice/mean"  # selects the checkpoint
    monitor_mode: Literal["max", "min"] = "max"
    per_slice = False  # scores are means over slices first
    steps_per_batch = 1  # of optimisers: Lightning counts each
    job_type = "training"  # of the W&B run
    output: OutputLayer | None = None  # the network's, where the module has options for it

    def __init__(
        self,
        loss: nn.Module,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> None:
        super().__init__()
        self.loss = loss
        self.optimizer_factory = optimizer
        self.scheduler_factory = scheduler
        self.precision: Literal["auto", "fp32", "bf16"] = precision
        self.seed = 0
        self.augmented = True
        self.gradient_clip_val: float | None = None
        self.max_steps: int | None = None
        self.compiler: str | None = None  # of the functions of a step
        self._compiled: dict[str, Callable[..., Any]] = {}
        self.patch_size: tuple[int, ...] | None = None  # of training: inference repeats it exactly
        self.validation_cases: dict[str, dict[str, float]] = {}
        self.validated_epoch: int | None = None
        self.card = {"model": None, "modalities": list(MODALITIES), "regions": list(self.regions)}

    def configure_for_fit(self, settings: FitSettings) -> None:
        """Apply the settings of a training to the model."""
        self.patch_size = settings.patch_size
        self.seed = settings.seed
        self.augmented = settings.augmented
        self.gradient_clip_val = settings.gradient_clip_val
        self.max_steps = settings.max_steps
        self.compiler = settings.compiler
        if self.output is not None:
            self.output.start(settings.prevalence)
        self.card.update(settings.card)

    def check_patch(self, patch_size: Sequence[int], *, bf16_on_cpu: bool = False) -> None:
        """Pass the shape of a patch through the network, without data or memory.

        Args:
            patch_size: voxels along every axis.
            bf16_on_cpu: whether the training will multiply in bf16 on a processor. There oneDNN's
                weight gradient of a convolution whose output is two voxels deep reads
                uninitialised memory (seen with torch 2.13 on AMX: values up to NaN that differ
                between runs).

        Raises:
            InputError: when the network cannot take the patch, or cannot be trained on it.
        """
        shadow = copy.deepcopy(self).to("meta")
        shallow = []

        def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.shape[2] == 2 and next(layer.parameters()).requires_grad:
                shallow.append(layer)

        for layer in shadow.modules():
            if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] > 1 and layer.stride[0] == 1:
                layer.register_forward_hook(look)
        image = torch.zeros(2, len(MODALITIES), *patch_size, device="meta")
        with torch.no_grad(), suppress(NotImplementedError):  # an operation without a meta kernel
            shadow(image)
        if shallow and bf16_on_cpu:
            raise InputError(
                f"data.patch_size {list(patch_size)} leaves two voxels of depth at the coarsest "
                "level, where bf16 training on a processor computes wrong gradients: set a larger "
                "first side, or --trainer.precision 32-true."
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the randomness of a step (dropout, pools) from the seed, epoch, batch and rank.

        One seed per epoch is not enough: at the start of an epoch the data loader draws from the
        same generator, before this hook or after it, depending on whether training was resumed.
        """
        place = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        sequence = np.random.SeedSequence(place)
        torch.manual_seed(int(sequence.generate_state(1)[0]))

    def log_train(self, name: str, value: Tensor, batch: dict[str, Any]) -> None:
        """Log ``train/<name>`` as the mean over the epoch's patches."""
        self.log(
            f"train/{name}",
            value.detach(),
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(batch["case_id"]),
        )

    def compiled(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function of the networks, compiled if it is part of a step that is to be.

        The function is compiled, not the module, so weights keep their names in checkpoints.

        Args:
            function: method of this module or of its network.
        """
        if self.compiler is None or not self.training:
            return function
        name = function.__qualname__
        if name not in self._compiled:
            self._compiled[name] = torch.compile(function, backend=self.compiler)
        return self._compiled[name]

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Return the training loss of a batch."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """One optimisation step on a batch of patches."""
        loss = self.compute_loss(batch)
        self.log_train("loss", loss, batch)
        return loss

    def rehearse_step(self, batch: dict[str, Any], optimizers: Sequence[Optimizer]) -> None:
        """Take one optimisation step without a trainer, to measure its cost."""
        self.compute_loss(batch).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def build_optimizer(self, weights: Iterable[nn.Parameter]) -> Optimizer:
        """Return the configured optimiser over some weights, fused where they are on a GPU.

        Raises:
            InputError: when the optimiser rejects its settings.
        """
        if self.optimizer_factory is None:
            optimizer: Optimizer = torch.optim.Adam(weights, lr=3e-4, weight_decay=1e-4)
        else:
            try:
                optimizer = self.optimizer_factory(weights)
            except ValueError as error:
                text = str(error).rstrip(".")
                raise InputError(f"model.optimizer: {text}, give another value.") from error
        fuse(optimizer)
        return optimizer

    def configure_optimizers(self) -> Any:
        """Build optimiser and scheduler over the trainable parameters only."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        if self.output is None:
            optimizer = self.build_optimizer(weights)
        else:
            optimizer = self.output.optimizer(self.build_optimizer, weights)
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer)
        interval = "step" if isinstance(scheduler, WholeTraining) else "epoch"
        settings = {"scheduler": scheduler, "interval": interval, "monitor": self.monitor}
        settings["strict"] = False  # an epoch may have no validation
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def setup(self, stage: str) -> None:
        """Arrange the weights for the device, before Lightning builds anything on them.

        Args:
            stage: fit, validate, test or predict.
        """
        device = self.trainer.strategy.root_device.type
        arrange_weights(self, device, str(self.trainer.precision))

    def on_train_start(self) -> None:
        """Set the length of schedules that end with the training; fit restored optimisers.

        Asked earlier, the trainer would open the data loader, and the workers of a resumed training
        would read the items of the first epoch.
        """
        for optimizer in self.trainer.optimizers:
            fuse(optimizer)
        steps = self.trainer.estimated_stepping_batches
        if self.max_steps is not None:
            steps = min(steps, self.max_steps // self.steps_per_batch)
        for scheduler in self._schedulers():
            if isinstance(scheduler, WholeTraining):
                scheduler.last_until(steps)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Step the schedules over steps of a module that steps its own optimisers."""
        if not self.automatic_optimization:
            for scheduler in self._schedulers():
                if isinstance(scheduler, WholeTraining):
                    scheduler.step()

    def _schedulers(self) -> list[Any]:
        found: Any = self.lr_schedulers() or []
        return found if isinstance(found, list) else [found]

    def on_train_epoch_end(self) -> None:
        """Step the schedulers that Lightning would not step, or only after the checkpoint is saved.

        Lightning does not step the schedulers of a module that steps its own optimisers, and it
        steps ReduceLROnPlateau, which follows the epoch's validation, too late.
        """
        for scheduler in self._schedulers():
            if not isinstance(scheduler, ReduceLROnPlateau):
                if not self.automatic_optimization and not isinstance(scheduler, WholeTraining):
                    scheduler.step()
            elif self.validated and self.monitor in self.trainer.callback_metrics:
                scheduler.step(self.trainer.callback_metrics[self.monitor])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step all schedulers but ReduceLROnPlateau, which `on_train_epoch_end` steps.

        Args:
            scheduler: to step.
            metric: the metric that it monitors, if any.
        """
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_validation_end(self) -> None:
        """Record that this epoch was validated."""
        self.validated_epoch = self.current_epoch

    @property
    def validated(self) -> bool:
        """Whether the current epoch was validated; if not, the logged scores are older."""
        return self.validated_epoch == self.current_epoch

    @property
    def has_nothing_to_train(self) -> bool:
        """Whether no weight is trainable, as in late fusion."""
        return not any(weight.requires_grad for weight in self.parameters())

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of parameters in ``all`` and of those ``trained``."""
        weights = list(self.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        return {"all": sum(weight.numel() for weight in weights), "trained": trained}

    def remarks(self) -> list[str]:
        """Return remarks on the network that readers of its scores need."""
        unknown = self.card.get("unknown", [])
        return [doubt(unknown)] if unknown else []

    @property
    def execution(self) -> Execution:
        """Precision and memory layout of inference on the present device."""
        return choose_execution(self.device, self.precision)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card, the description of the model that a checkpoint carries."""
        if "optimizer_states" not in checkpoint:
            self._store_average(checkpoint)
        checkpoint[KEY] = {**self.card, "patch_size": list(self.patch_size or ())}

    def _store_average(self, checkpoint: dict[str, Any]) -> None:
        """Put the averaged weights, if any, into a checkpoint that holds weights only.

        Lightning asks callbacks only about checkpoints that can be resumed.
        """
        trainer: Any = None
        with suppress(RuntimeError):  # there is none
            trainer = self.trainer
        for callback in trainer.callbacks if trainer else []:
            if isinstance(callback, WeightAveraging):
                callback.on_save_checkpoint(trainer, self, checkpoint)
                for key in (TRAINED_WEIGHTS, "averaging_state"):
                    checkpoint.pop(key, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the card of a checkpoint, and with it the patch size of training."""
        self.card = dict(checkpoint[KEY])
        self.patch_size = tuple(self.card["patch_size"]) or None
