"""The output of each fusion head, against formulas written out here."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from errors import InputError
from fusion import (
    DualFusionAttention,
    EarlyFusion,
    EarlyFusionAttention,
    GlobalFusionAttention,
    LateFusion,
    LocalAttention,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_late_fusion_is_the_mean_of_probabilities_not_of_logits():
    probabilities = [torch.tensor([0.9, 0.2, 0.5]), torch.tensor([0.3, 0.4, 0.5])]
    logits = [torch.log(p / (1 - p)).reshape(1, 3, 1, 1, 1) for p in probabilities]
    fused = torch.sigmoid(LateFusion([1, 1])([], logits)).flatten()
    torch.testing.assert_close(fused, torch.tensor([0.6, 0.3, 0.5]))
    assert not list(LateFusion([1, 1]).parameters())


def test_late_fusion_stays_finite_and_in_float32():
    extreme = torch.tensor([1000.0, -1000.0]).reshape(1, 2, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        fused = LateFusion([1, 1])([], [extreme.bfloat16(), extreme.bfloat16()])
    assert fused.dtype == torch.float32
    assert torch.isfinite(fused).all()
    assert fused.flatten()[0] > 10
    assert fused.flatten()[1] < -10


def test_late_fusion_keeps_more_than_the_precision_of_the_networks():
    # In bfloat16 the mean of these two probabilities would round to 0.5: no mask either way.
    logits = [torch.tensor([[0.0]]), torch.tensor([[0.0078125]])]
    fused = LateFusion([1, 1])([], [one.bfloat16() for one in logits])
    assert 0.003 < fused.item() < 0.005


def test_early_fusion_is_a_network_of_each_voxel_alone():
    head = EarlyFusion([3, 5], out_channels=2, size="tiny", start="zero")
    features = [torch.randn(1, 3, 4, 4, 4), torch.randn(1, 5, 4, 4, 4)]
    voxel = torch.cat([one[0, :, 1, 2, 3] for one in features])
    hidden = functional.gelu(head.mix.weight.flatten(1) @ voxel + head.mix.bias)
    expected = head.out.weight.flatten(1) @ hidden + head.out.bias
    torch.testing.assert_close(head(features, [])[0, :, 1, 2, 3], expected)
    assert head(features, []).min() < 0  # nothing follows the last convolution


def test_early_fusion_takes_three_networks():
    features = [torch.randn(1, channels, 4, 4, 4) for channels in (2, 3, 4)]
    logits = [torch.randn(1, 3, 4, 4, 4)] * 3
    assert EarlyFusion([2, 3, 4])(features, logits).shape == (1, 3, 4, 4, 4)


def test_early_fusion_attention_is_a_third_of_the_sum():
    layer = EarlyFusionAttention(4)
    first, second = torch.randn(2, 1, 4, 5, 6, 7)
    joined = torch.cat([first, second], dim=1)
    conv3, conv1, last = layer.fuse
    fused = functional.conv3d(joined, conv3.weight, conv3.bias, padding=1)
    fused = functional.conv3d(fused, conv1.weight, conv1.bias)
    fused = functional.conv3d(fused, last.weight, last.bias, padding=1)
    fused = fused + functional.conv3d(joined, layer.shortcut.weight, layer.shortcut.bias)
    torch.testing.assert_close(layer(first, second), (fused + first + second) / 3)
    assert conv3.weight.shape == (4, 8, 3, 3, 3)
    assert conv1.weight.shape == (4, 4, 1, 1, 1)
    assert last.weight.shape == (4, 4, 3, 3, 3)


def test_local_attention_skips_once():
    layer = LocalAttention(4)
    assert [one.kernel_size[0] for one in layer.block if isinstance(one, nn.Conv3d)] == [1, 3, 1]
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    feature_map = torch.randn(1, 4, 5, 6, 7)
    assert torch.equal(layer(feature_map), feature_map)


def test_dual_fusion_follows_the_five_steps():
    head = DualFusionAttention([3, 5], size="tiny", start="zero", bounded=False)
    features = [torch.randn(1, 3, 6, 5, 4), torch.randn(1, 5, 6, 5, 4)]
    first, second = (
        torch.einsum("oc,bcdhw->bodhw", conv.weight[..., 0, 0, 0], one)
        + conv.bias.reshape(1, -1, 1, 1, 1)
        for conv, one in zip(head.normalise, features, strict=True)
    )
    value = head.early(first, second)
    scores = torch.einsum("bcn,bcm->bnm", first.flatten(2), second.flatten(2)) / 16**0.5
    attended = torch.einsum("bnm,bcm->bcn", scores.softmax(-1), value.flatten(2))
    fused = head.local(attended.reshape(value.shape) * value)
    torch.testing.assert_close(head(features, []), head.out(fused), atol=1e-5, rtol=1e-4)


def pair(*grid):
    """Features of 3 and 5 channels, and logits of three regions, of two networks."""
    features = [torch.randn(2, channels, *grid) for channels in (3, 5)]
    return features, [3 * torch.randn(2, 3, *grid) for _ in features]


@pytest.mark.parametrize("build", [EarlyFusion, DualFusionAttention])
def test_a_head_starts_as_late_fusion_and_moves_on_from_it(build):
    inputs = pair(6, 5, 4)
    head, late = build([3, 5], size="tiny"), LateFusion()(*inputs)
    assert torch.equal(head(*inputs), late)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves the last layer alone
        optimizer.zero_grad()
        head(*inputs).square().mean().backward()
        optimizer.step()
    assert all(weight.grad.abs().sum() > 0 for weight in head.parameters())
    assert head(*inputs).square().mean() < late.square().mean()
    literal = build([3, 5], size="tiny", start="zero")
    assert head.state_dict().keys() == literal.state_dict().keys()
    assert literal.output_layer.weight.abs().sum() > 0
    assert torch.equal(
        literal(*inputs), literal(inputs[0], [])
    )  # the networks' logits play no part


def test_parts_can_be_left_out():
    features, logits = pair(4, 4, 4)
    torch.manual_seed(0)
    whole = DualFusionAttention([3, 5], size="tiny")
    counts = {}
    for part, module in (("early", whole.early), ("local", whole.local)):
        rest = [one for one in ("early", "global", "local") if one != part]
        head = DualFusionAttention([3, 5], size="tiny", parts=rest)
        assert head(features, logits).shape == (2, 3, 4, 4, 4)
        left_out = sum(weight.numel() for weight in module.parameters())
        counts[part] = sum(weight.numel() for weight in head.parameters())
        assert counts[part] + left_out == sum(weight.numel() for weight in whole.parameters())
    for same in ({"parts": ["early", "local"]}, {"attention": "none"}):
        head = DualFusionAttention([3, 5], size="tiny", start="zero", **same)
        assert head.attend.mode == "none"
        first, second = (conv(one) for conv, one in zip(head.normalise, features, strict=True))
        expected = head.out(head.local(head.early(first, second)))
        torch.testing.assert_close(head(features, logits), expected)
    head = DualFusionAttention([3, 5], size="tiny", start="zero", parts=["global"], bounded=False)
    first, second = (conv(one) for conv, one in zip(head.normalise, features, strict=True))
    attend = GlobalFusionAttention("exact", bounded=False)
    expected = head.out(attend(first, second, (first + second) / 2))
    torch.testing.assert_close(head(features, logits), expected, atol=1e-5, rtol=1e-4)


def test_named_sizes_are_those_of_the_paper_and_of_a_processor():
    base, tiny = DualFusionAttention([32, 16]), DualFusionAttention([8, 8], size="tiny")
    assert (base.normalise[0].out_channels, base.attend.kv_grid) == (48, 16)
    assert (tiny.normalise[0].out_channels, tiny.attend.kv_grid) == (16, 8)
    assert base.attend.mode == tiny.attend.mode == "pooled"
    assert base.attend.exact_below == 32_768
    own = DualFusionAttention([8, 8], size="tiny", channels=24, kv_grid=4, exact_below=7)
    assert (own.normalise[0].out_channels, own.attend.kv_grid, own.attend.exact_below) == (24, 4, 7)


def test_released_variant_attends_by_plane():
    head = DualFusionAttention([3, 5], size="tiny", variant="released", start="zero")
    plane = GlobalFusionAttention("plane")
    features = [torch.randn(1, 3, 4, 4, 4), torch.randn(1, 5, 4, 4, 4)]
    first, second = (conv(one) for conv, one in zip(head.normalise, features, strict=True))
    value = head.early(first, second)
    expected = head.out(head.local(plane(first, second, value)))
    torch.testing.assert_close(head(features, []), expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"in_channels": [8, 8, 8]}, "exactly two networks and got 3"),
        ({"in_channels": [8]}, "exactly two networks and got 1"),
        ({"variant": "draft"}, "no variant 'draft'"),
        ({"attention": "plane"}, "set `variant` to released"),
        ({"attention": "exact", "variant": "released"}, "leave `attention` out"),
        ({"attention": "linear"}, "'linear' does not exist"),
        ({"start": "early"}, "no start 'early': set `start` to late or zero"),
        ({"parts": []}, "left without any part"),
        ({"parts": ["global"], "attention": "none"}, "left without any part"),
        ({"channels": 0}, "has 0 `channels`: give 1 or more"),
        ({"kv_grid": 0}, "`kv_grid` is 0"),
        ({"parts": ["early", "dual"]}, "no part 'dual': `parts` lists some of early, global"),
    ],
)
def test_dual_fusion_refuses_contradictions(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        DualFusionAttention(**{"in_channels": [8, 8], "size": "tiny", **arguments})
