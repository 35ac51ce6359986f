"""The output layer of a network: its learning rate, and its bias at the start of a training."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from errors import InputError

InitialBias = Literal["prevalence"] | float | None
Prevalence = Callable[[], Sequence[float]]


class OutputLayer:
    """The last convolution of a network, trained at a rate of its own from a bias of its own.

    Args:
        network: names the layer by its property ``output_layer``.
        rate: factor on the learning rate of the layer.
        bias: its bias at the start: ``prevalence``, one number for all regions, or None for the
            random one. ``prevalence`` is the logit of every region's share of the voxels of the
            training patches, so that training begins from the prior probability (Lin et al.,
            "Focal loss for dense object detection", https://arxiv.org/abs/1708.02002, section 4.1).

    Raises:
        InputError: when a value is out of range, or the network has not one output layer.
    """

    def __init__(self, network: nn.Module, rate: float = 1.0, bias: InitialBias = None) -> None:
        if not 0 < rate < math.inf:
            raise InputError(f"model.output_rate is {rate}: expected a factor above 0.")
        if isinstance(bias, float | int) and not math.isfinite(bias):
            raise InputError(f"model.output_bias is {bias}: expected a number, prevalence or null.")
        self.rate = rate
        self.bias = bias
        self.layer: nn.Module | None = None
        trained = any(weight.requires_grad for weight in network.parameters())
        if not trained or (rate == 1.0 and bias is None):
            return
        self.layer = getattr(network, "output_layer", None)
        if self.layer is None:
            raise InputError(
                f"model.output_rate and model.output_bias act on one output layer, which "
                f"{type(network).__name__} does not have: leave both out."
            )

    def optimizer(
        self, build: Callable[[Any], Optimizer], weights: Iterable[nn.Parameter]
    ) -> Optimizer:
        """Return an optimiser over weights, with the layer's rate multiplied.

        Args:
            build: builds the optimiser from weights or from groups of them.
            weights: all weights that are trained.
        """
        if self.layer is None or self.rate == 1.0:
            return build(weights)
        return with_own_rate(build, weights, self.layer.parameters(), self.rate)

    def start(self, prevalence: Prevalence | None) -> None:
        """Set the bias at the start of a training.

        Args:
            prevalence: returns the share of every region in the training patches, each between 0
                and 1; None: unknown, so that a bias by prevalence stays random.
        """
        if self.layer is None or self.bias is None:
            return
        bias: Any = self.layer.bias
        with torch.no_grad():
            if self.bias != "prevalence":
                bias.fill_(float(self.bias))
            elif prevalence is not None:
                bias.copy_(torch.logit(torch.tensor(prevalence(), dtype=torch.float64)))


def with_own_rate(
    build: Callable[[Any], Optimizer],
    weights: Iterable[nn.Parameter],
    own: Iterable[nn.Parameter],
    rate: float,
) -> Optimizer:
    """Return an optimiser over weights, with the learning rate of some of them multiplied.

    Args:
        build: builds the optimiser from weights or from groups of them.
        weights: all weights that are trained.
        own: those with a rate of their own.
        rate: factor on their learning rate.
    """
    chosen = {id(weight) for weight in own}
    if rate == 1.0 or not chosen:
        return build(weights)
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for weight in weights:
        groups[id(weight) in chosen].append(weight)
    optimizer = build([{"params": group} for group in groups])
    optimizer.param_groups[1]["lr"] *= rate
    return optimizer
