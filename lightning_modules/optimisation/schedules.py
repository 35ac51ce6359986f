"""Learning-rate schedules over the optimiser steps of a whole training."""

import math

from monai.optimizers import WarmupCosineSchedule
from torch.optim import Optimizer

from errors import InputError


class WarmupCosine(WarmupCosineSchedule):
    """Linear warm-up, then a cosine to 0 at the last step of the training (MONAI's schedule).

    Stepped after every optimiser step. Of ``n`` warm-up steps the first has 1/n of the rate. The
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

    interval = "step"

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
                "model.scheduler WarmupCosine ends with the training, and this one has no end: set "
                "trainer.max_epochs or trainer.max_steps, or model.scheduler.total_steps."
            )
        self._set_length(int(steps))

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
