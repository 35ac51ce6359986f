"""Casts of frozen weights are kept only while the weight is what it was."""

import torch
from torch import nn

from backbones.sam.linear import linear


def cast_product(layer, tokens):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return linear(layer, tokens).float()


def test_a_changed_frozen_weight_is_cast_again():
    torch.manual_seed(0)
    layer, tokens = nn.Linear(32, 16).requires_grad_(False), torch.randn(4, 32)
    before = cast_product(layer, tokens)
    torch.testing.assert_close(before, layer(tokens), atol=0.05, rtol=0.05)
    layer.load_state_dict({"weight": torch.randn(16, 32), "bias": torch.randn(16)})
    torch.testing.assert_close(cast_product(layer, tokens), layer(tokens), atol=0.2, rtol=0.05)
    layer.weight.data = torch.randn(16, 32)
    torch.testing.assert_close(cast_product(layer, tokens), layer(tokens), atol=0.2, rtol=0.05)


def test_two_layers_of_one_shape_keep_apart():
    torch.manual_seed(0)
    tokens = torch.randn(4, 32)
    layers = [nn.Linear(32, 16).requires_grad_(False) for _ in range(3)]
    for _ in range(2):
        for layer in layers:
            product = cast_product(layer, tokens)
            torch.testing.assert_close(product, layer(tokens), atol=0.05, rtol=0.05)
