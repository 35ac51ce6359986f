"""Exponential moving average of the weights of a training."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from errors import InputError


class MovingAverage(WeightAveraging):
    """Validate, select and save the exponential moving average of the weights.

    After every optimiser step the average moves by ``1 - decay`` towards the trained weights, and
    so do the running statistics of batch norm. Lightning's own ``EMAWeightAveraging`` does the same
    up to rounding, by which frozen weights would drift; here they stay equal to the last bit.

    Args:
        decay: share of the average that a step keeps, from 0 to below 1.

    Raises:
        InputError: when the decay is out of range.
    """

    def __init__(self, decay: float = 0.98) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay of MovingAverage is {decay}: expected 0 to below 1.")

        def average(averaged: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
            counts = not averaged.is_floating_point()
            return current if counts else averaged.lerp(current, 1 - decay)

        super().__init__(avg_fn=average)
