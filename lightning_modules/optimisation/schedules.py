"""Learning-rate schedules over the optimiser steps of a whole training."""

import math
from abc import ABC, abstractmethod

from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from errors import InputError


class WholeTraining(LambdaLR, ABC):
    """Base of schedules that are stepped after every optimiser step and end with the training.

    Attributes:
        is_given: whether the number of steps was given, instead of that of the training.
    """

    is_given: bool

    def last_until(self, steps: float) -> None:
        """End the schedule at the last step of a training, unless its length was given.

        Args:
            steps: optimiser steps of the training; infinite where it has no end.

        Raises:
            InputError: when the training has no end, or no more steps than the warm-up.
        """
        if self.is_given:
            return
        if not math.isfinite(steps):
            raise InputError(
                f"model.scheduler {type(self).__name__} ends with the training, and this one has "
                "no end: set trainer.max_epochs or trainer.max_steps, or "
                "model.scheduler.total_steps."
            )
        self._set_length(int(steps))

    @abstractmethod
    def _set_length(self, steps: int) -> None:
        """Set the number of steps until the end, before the first of them."""


class Polynomial(WholeTraining):
    """A rate that falls as (1 - step / steps) ** power, to 0 after the last step of the training.

    The schedule of nnU-Net (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z),
    which steps it once an epoch.

    Args:
        optimizer: its learning rates are those of the first step.
        power: exponent; nnU-Net's is 0.9.
        total_steps: optimiser steps until the rate is 0; null: all of the training, by its epochs
            and its limit of steps.

    Raises:
        InputError: when the power or the number of steps is not above 0.
    """

    def __init__(
        self, optimizer: Optimizer, power: float = 0.9, total_steps: int | None = None
    ) -> None:
        for name, value in (("power", power), ("total_steps", total_steps)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"model.scheduler.{name} is {value}: expected more than 0.")
        self.is_given = total_steps is not None
        self.steps = total_steps or 1  # or `last_until`
        super().__init__(optimizer, lambda step: max(0.0, 1 - step / self.steps) ** power)

    def _set_length(self, steps: int) -> None:
        """Set the number of steps; the rate of the first one is the same for any."""
        self.steps = steps


class WarmupCosine(WholeTraining, WarmupCosineSchedule):
    """Linear warm-up, then a cosine to 0 at the last step of the training (MONAI's schedule).

    Of ``n`` warm-up steps the first has 1/n of the rate. The
    cosine is that of SGDR (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983), without
    restarts.

    Args:
        optimizer: its learning rates are the highest of the schedule.
        warmup_steps: optimiser steps of the warm-up; 0 begins at the full rate. Below 1 it is the
            share of all steps, rounded down.
        total_steps: optimiser steps until the rate is 0; null: all of the training, by its epochs
            and its limit of steps.

    Raises:
        InputError: when the warm-up is negative or as long as the training.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_steps: float = 0, total_steps: int | None = None
    ) -> None:
        if warmup_steps < 0 or (warmup_steps >= 1 and warmup_steps != int(warmup_steps)):
            raise InputError(
                f"model.scheduler.warmup_steps is {warmup_steps}: expected 0 or more steps, or "
                "their share of the training, below 1."
            )
        self.asked = warmup_steps
        self.is_given = total_steps is not None
        steps = int(warmup_steps) + 1 if total_steps is None else total_steps  # or `last_until`
        super().__init__(optimizer, 0, steps)
        self._set_length(steps)

    def lr_lambda(self, step: int) -> float:
        """Return the factor on the rate of a step; it stays 0 after the last."""
        return float(super().lr_lambda(min(step, self.t_total)))

    def _set_length(self, steps: int) -> None:
        """Set the length of training and warm-up, and the rate of the first step."""
        warmup = int(self.asked if self.asked >= 1 else self.asked * steps)
        if warmup >= steps:
            raise InputError(
                f"model.scheduler.warmup_steps is {warmup} of {steps} optimiser steps in all, so "
                "the rate would never fall: set fewer, or train longer (trainer.max_epochs, "
                "data.patches_per_epoch)."
            )
        self.t_total, self.warmup_steps = steps, warmup
        self.warmup_multiplier = 1 / max(1, warmup)
        if self.last_epoch == 0:
            for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = rate * self.lr_lambda(0)
