"""Stage 1 of Zhang et al. 2021: generators that translate one pair of modalities into the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from evaluation.figures.translation import translation_png
from fusion.feature_transition import GROUPS, FeatureTransition
from lightning_modules.base import TrainingModule
from lightning_modules.contracts.protocols import NativeCase
from lightning_modules.image_pool import ImagePool
from lightning_modules.inference import SlidingWindow

POOLS = "image_pools"  # key of every rank's pools in checkpoints that can be resumed


class FeatureTransitionModule(TrainingModule):
    """Cross-modality feature transition: a cycle-consistent adversarial translation.

    "Cross-modality deep feature learning for brain tumor segmentation", Pattern Recognition 110,
    section 3.1. Least-squares adversarial loss; L1 between a group and its reconstruction by both
    generators, weighted by 10; each discriminator sees a pool of the last ten translations. These,
    Adam 1e-4 and 10,000 steps of batch 1 follow the authors' code. Own choices: both terms of a
    discriminator count half, and the checkpoint is selected by the L1 distance between translated
    and true modalities inside the brain of validation patients, which registered data allows.
    Intensities are normalised as for every other system (the authors clip at the 2nd and 98th
    percentile).

    Args:
        size: named size of the networks; the second stage must have the same.
        cycle_weight: weight of the cycle-consistency loss.
        pool_size: translations that a discriminator's pool keeps.
        overlap: share of a sliding window that its neighbour covers again, in validation.
        loss: unused, as the next three; accepted so that a study's overlays fit every stage.
        output_rate: unused.
        output_bias: unused.
        deep_supervision: no effect on these networks, which have one output.
        **training: optimizer (built twice: generators, discriminators), scheduler, precision.

    Raises:
        InputError: unknown size, or a weight or pool below zero.
    """

    job_type = "pretrain"
    monitor = "val/loss"
    monitor_mode: Literal["max", "min"] = "min"
    steps_per_batch = 2

    def __init__(
        self,
        size: Literal["tiny", "base"] = "tiny",
        cycle_weight: float = 10.0,
        pool_size: int = 10,
        overlap: float = 0.5,
        loss: nn.Module | None = None,
        output_rate: float = 1.0,
        output_bias: float | None = None,
        deep_supervision: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(loss=nn.MSELoss(), **training)
        for name, value in (("cycle_weight", cycle_weight), ("pool_size", pool_size)):
            if value < 0:
                raise InputError(f"model.{name} is {value}: expected 0 or more.")
        self.automatic_optimization = False  # two optimisers in turns
        self.network = FeatureTransition(size)
        self.cycle_weight = cycle_weight
        self.overlap = overlap
        self.deep_supervision = deep_supervision
        self.pools = [ImagePool(pool_size) for _ in GROUPS]
        self.distances: dict[str, Tensor] = {}
        self.sample: tuple[Tensor, Tensor, bool] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 4, D, H, W) to every modality translated from the other group."""
        translated: Tensor = self.network(image)
        return translated

    def configure_optimizers(self) -> Any:
        """Build one optimiser for the generators and one for the discriminators."""
        optimizers = [
            self.build_optimizer(self.network.generator_weights()),
            self.build_optimizer(self.network.critics.parameters()),
        ]
        if self.scheduler_factory is None:
            return optimizers
        return optimizers, [self.scheduler_factory(optimizer) for optimizer in optimizers]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Step the generators against the discriminators, then the discriminators."""
        generators, discriminators = self.optimizers()  # type: ignore[attr-defined]
        groups = self.groups(batch)
        self.toggle_optimizer(generators)
        made, cycle, adversarial = self.generator_losses(groups)
        total = adversarial + self.cycle_weight * cycle
        self.descend(generators, total)
        self.untoggle_optimizer(generators)

        self.toggle_optimizer(discriminators)
        judged = self.discriminator_loss(groups, made)
        self.descend(discriminators, judged)
        self.untoggle_optimizer(discriminators)

        losses = {"cycle": cycle, "adversarial": adversarial, "discriminator": judged}
        for name, value in {"loss": total, **losses}.items():
            self.log_train(name, value, batch)

    def rehearse_step(self, batch: dict[str, Any], optimizers: Sequence[Optimizer]) -> None:
        """Step both optimisers once without a trainer."""
        groups = self.groups(batch)
        made, cycle, adversarial = self.generator_losses(groups)
        (adversarial + self.cycle_weight * cycle).backward()
        self.discriminator_loss(groups, made).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def groups(self, batch: dict[str, Any]) -> list[Tensor]:
        """Return (T1, T1ce) and (T2, FLAIR) of a batch, each (B, 2, *patch)."""
        image = self.execution.arrange(batch["image"])
        return [image[:, group] for group in GROUPS]

    def generator_losses(self, groups: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the translations, their cycle-consistency loss and their adversarial loss."""
        generate, judge = (
            self.compiled(one) for one in (self.network.generate, self.network.judge)
        )
        made = [generate(index, group) for index, group in enumerate(groups)]
        judged = [self.loss(*_towards(judge(index, one), 1)) for index, one in enumerate(made)]
        return made, self.cycle_loss(groups, made), judged[0] + judged[1]

    def discriminator_loss(self, groups: list[Tensor], made: list[Tensor]) -> Tensor:
        """Return the discriminators' loss on real groups and on translations from the pools."""
        losses, judge = [], self.compiled(self.network.judge)
        for index, (one, pool) in enumerate(zip(made, self.pools, strict=True)):
            real = judge(index, groups[1 - index])
            fake = judge(index, pool.exchange(one))
            losses.append((self.loss(*_towards(real, 1)) + self.loss(*_towards(fake, 0))) / 2)
        return losses[0] + losses[1]

    def cycle_loss(self, groups: list[Tensor], made: list[Tensor]) -> Tensor:
        """Return the L1 between both groups and their reconstructions, summed over the two."""
        generate = self.compiled(self.network.generate)
        back = [generate(1 - index, one) for index, one in enumerate(made)]
        distances = [
            (returned.float() - group.float()).abs().mean()
            for returned, group in zip(back, groups, strict=True)
        ]
        return distances[0] + distances[1]

    def descend(self, optimizer: Any, loss: Tensor) -> None:
        """Take one step of an optimiser down the gradient of a loss."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients where configured; in float16 they are already unscaled here."""
        if self.gradient_clip_val:
            self.clip_gradients(optimizer, self.gradient_clip_val, "norm")

    def on_validation_epoch_start(self) -> None:
        """Reset the mean and the sample to draw."""
        self.distances, self.sample = {}, None

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure the L1 distance between one patient's translated and true modalities."""
        image = batch["image"]
        assert self.patch_size is not None  # set by setup
        window = SlidingWindow(
            self.patch_size,
            overlap=self.overlap,
            execution=self.execution,
            activation=nn.Identity(),
        )
        translated = window(self, image)
        brain = (image != 0).any(dim=1, keepdim=True).expand_as(image)
        self.distances[batch["case_id"][0]] = (translated - image)[brain].abs().mean()
        if self.sample is None:
            tumour = (batch["mask"][0, 0] > 0.5).sum(dim=(0, 1))
            most = tumour if bool(tumour.any()) else brain[0, 0].sum(dim=(0, 1))
            depth = int(most.argmax())
            case: NativeCase = batch["case"][0]
            self.sample = (image[0, ..., depth], translated[0, ..., depth], case.synthetic)

    def on_validation_epoch_end(self) -> None:
        """Log the mean distance over the patients of all ranks, each counted once."""
        distances = {name: float(value) for name, value in self.distances.items()}
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, distances)
            distances = {name: value for part in gathered for name, value in part.items()}
        self.log(self.monitor, float(np.mean(list(distances.values()))), sync_dist=True)

    def on_fit_end(self) -> None:
        """Draw a validation slice: each modality, and its translation from the other group."""
        rehearsal = bool(getattr(self.trainer, "fast_dev_run", False))  # writes no files
        if self.sample is not None and self.trainer.is_global_zero and not rehearsal:
            true, translated, synthetic = self.sample
            translation_png(
                dict(zip(MODALITIES, true.float().cpu().numpy(), strict=True)),
                dict(zip(MODALITIES, translated.float().cpu().numpy(), strict=True)),
                Path(self.trainer.default_root_dir) / "overlays" / "translation.png",
                synthetic=synthetic,
            )

    def remarks(self) -> list[str]:
        """Return the sizes of the four networks, and what had no effect."""
        generator = sum(weight.numel() for weight in self.network.generator_weights()) // 2
        critic = sum(weight.numel() for weight in self.network.critics.parameters()) // 2
        sizes = f"two generators of {generator:,} and two discriminators of {critic:,} parameters"
        unused = "deep supervision had no effect, these networks have one output layer"
        return [sizes, unused] if self.deep_supervision else [sizes]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the card and, in a checkpoint that can be resumed, the image pools of all ranks."""
        super().on_save_checkpoint(checkpoint)
        if "optimizer_states" not in checkpoint:
            return
        pools: list[Any] = [[[image.cpu() for image in pool.images] for pool in self.pools]]
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, pools[0])
            pools = gathered
        checkpoint[POOLS] = pools

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the card and, when resuming, this rank's image pools."""
        super().on_load_checkpoint(checkpoint)
        pools = checkpoint.get(POOLS, [])
        if pools:
            own = pools[self.global_rank % len(pools)]
            for pool, images in zip(self.pools, own, strict=True):
                pool.images = [image.to(self.device) for image in images[: pool.size]]


def _towards(judgement: Tensor, value: float) -> tuple[Tensor, Tensor]:
    """Return a discriminator's output in fp32 and its target, constant everywhere."""
    return judgement.float(), torch.full_like(judgement, value, dtype=torch.float32)
