"""A network as a GPU gets it: weights and images with the channels of a voxel side by side."""

import copy

import torch
from torch import nn

from lightning_modules.optimisation.kernels import CHANNELS_LAST, arrange_weights


def assert_layout_changes_nothing(network: nn.Module, image: torch.Tensor) -> None:
    """Compare logits and gradients with those of the plain order; a `view` of it would fail."""
    network, found = network.eval(), []
    for arranged in (False, True):
        one, seen = copy.deepcopy(network), image
        if arranged:
            arrange_weights(one, "cuda", "32-true")
            seen = image.contiguous(memory_format=CHANNELS_LAST[image.ndim])
            assert not seen.is_contiguous()
        logits = one(seen)
        logits.square().sum().backward()
        grads = [weight.grad for weight in one.parameters() if weight.grad is not None]
        found.append((logits.detach(), torch.cat([grad.flatten() for grad in grads])))
    (plain, expected), (ours, gradients) = found
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    assert (gradients - expected).norm() < 1e-3 * expected.norm()
