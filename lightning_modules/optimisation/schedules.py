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
        warmup_steps: optimiser steps of the warm-up; 0 begins at the full rate.
        total_steps: optimiser steps until the rate is 0; null: all of the training, by its epochs
            and its limit of steps.

    Raises:
        InputError: when the warm-up is negative or as long as the training.
    """

    interval = "step"

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int = 0, total_steps: int | None = None
    ) -> None:
        if warmup_steps < 0:
            raise InputError(
                f"model.scheduler.warmup_steps is {warmup_steps}: expected 0 or more steps."
            )
        if total_steps is not None:
            _check_length(warmup_steps, total_steps)
        self.is_given = total_steps is not None
        super().__init__(
            optimizer,
            warmup_steps,
            total_steps or warmup_steps + 1,  # until `last_until`
            warmup_multiplier=1 / max(1, warmup_steps),
        )

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
        _check_length(self.warmup_steps, int(steps))
        self.t_total = int(steps)


def _check_length(warmup_steps: int, total_steps: int) -> None:
    if warmup_steps >= total_steps:
        raise InputError(
            f"model.scheduler.warmup_steps is {warmup_steps} of {total_steps} optimiser steps in "
            "all, so the rate would never fall: set fewer, or train longer (trainer.max_epochs, "
            "data.patches_per_epoch)."
        )
