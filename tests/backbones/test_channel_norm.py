"""ChannelNorm against instance norm, in either memory layout."""

import pytest
import torch
from torch.nn import functional

from backbones.channel_norm import ChannelNorm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_it_is_instance_norm_and_hands_on_channels_last(layout):
    torch.manual_seed(0)
    norm = ChannelNorm(3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    feature_map = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=layout).requires_grad_()
    found = norm(feature_map)
    expected = functional.instance_norm(feature_map, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    upstream = torch.randn_like(found)
    inputs = [feature_map, norm.weight, norm.bias]
    for one, other in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
