"""Global attention against the explicit formula, its limits, and its memory."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from errors import InputError
from fusion import GlobalFusionAttention
from fusion.global_attention import voxel_attention

REPOSITORY = Path(__file__).parents[2]


def as_written(mode, **settings):
    """The attention whose product with V is the paper's, without the bound."""
    return GlobalFusionAttention(mode, bounded=False, **settings)


def maps(*grid, channels=16, batch=2):
    torch.manual_seed(0)
    return [torch.randn(batch, channels, *grid, requires_grad=True) for _ in range(3)]


def explicit(query, key, value, key_of_product=None, value_of_product=None):
    """(softmax(Q K^T / sqrt(d)) V) * V, voxel by voxel, as the paper writes it."""
    key = key if key_of_product is None else key_of_product
    attended = value if value_of_product is None else value_of_product
    queries, keys, values = (one.flatten(2).transpose(1, 2) for one in (query, key, attended))
    scores = torch.einsum("bnc,bmc->bnm", queries, keys) / math.sqrt(query.shape[1])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    result = torch.einsum("bnm,bmc->bcn", weights, values).reshape(query.shape)
    return result * value


def gradients(output, inputs):
    torch.manual_seed(1)
    return torch.autograd.grad((output * torch.randn(output.shape)).sum(), inputs)


def assert_agrees(found, expected, inputs):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", [(8, 8, 8), (6, 9, 4), (5, 7, 3)], ids=str)
@pytest.mark.parametrize("mode", ["exact", "pooled"])
def test_exact_and_pooled_below_its_threshold_are_the_formula(mode, grid):
    inputs = maps(*grid)
    assert_agrees(as_written(mode)(*inputs), explicit(*inputs), inputs)


def test_channels_last_maps_give_the_same():
    inputs = maps(8, 8, 8)
    layout = [one.contiguous(memory_format=torch.channels_last_3d) for one in inputs]
    assert_agrees(as_written("exact")(*layout), explicit(*inputs), inputs)


def test_pooled_averages_cells_of_keys_and_values():
    query, key, value = inputs = maps(8, 8, 8)
    cells = [  # (2, 16, 2, 2, 2)
        one.reshape(2, 16, 2, 4, 2, 4, 2, 4).mean(dim=(3, 5, 7)) for one in (key, value)
    ]
    found = as_written("pooled", kv_grid=2, exact_below=511)(*inputs)
    assert_agrees(found, explicit(query, key, value, *cells), inputs)


def test_pooled_cells_of_odd_sides_cover_every_voxel():
    query, key, value = inputs = maps(5, 7, 2)
    # Cells of unequal sides overlap by a voxel: floor(i n / g) to ceil((i + 1) n / g).
    cuts = [[(0, 2), (1, 4), (3, 5)], [(0, 3), (2, 5), (4, 7)], [(0, 1), (1, 2)]]

    def pool(one):
        for axis, spans in enumerate(cuts, start=2):
            parts = [one.narrow(axis, a, b - a).mean(axis, keepdim=True) for a, b in spans]
            one = torch.cat(parts, dim=axis)
        return one

    found = as_written("pooled", kv_grid=3, exact_below=10)(*inputs)
    assert_agrees(found, explicit(query, key, value, pool(key), pool(value)), inputs)


def test_the_threshold_is_inclusive():
    inputs = maps(4, 4, 4)
    at = as_written("pooled", kv_grid=2, exact_below=64)(*inputs)
    below = as_written("pooled", kv_grid=2, exact_below=63)(*inputs)
    torch.testing.assert_close(at, explicit(*inputs), atol=1e-5, rtol=0)
    assert (below - at).abs().max() > 1e-2


def test_channel_mode_attends_between_channels():
    query, key, value = inputs = maps(4, 5, 3, channels=6)
    expected = torch.zeros_like(value)
    for b in range(2):
        q, k, v = (one[b].flatten(1) for one in (query, key, value))
        rows = [
            torch.softmax(torch.stack([q[c] @ k[e] for e in range(6)]) / 60**0.5, 0)
            for c in range(6)
        ]
        mixed = torch.stack([sum(row[e] * v[e] for e in range(6)) for row in rows])
        expected[b] = mixed.reshape(6, 4, 5, 3) * value[b]
    assert_agrees(as_written("channel")(*inputs), expected, inputs)


@pytest.mark.parametrize("mode", ["exact", "pooled", "channel"])
def test_the_gain_is_the_papers_where_small_and_never_above_one(mode):
    query, key, value = maps(6, 5, 4)
    literal = as_written(mode)
    attention = GlobalFusionAttention(mode)
    for scale in (1e-3, 1.0, 1e3):
        scaled = value.detach() * scale
        written = literal(query, key, scaled) / scaled
        gain = attention(query, key, scaled) / scaled
        power = written.square().mean(dim=1, keepdim=True)
        torch.testing.assert_close(gain, written / (1 + power).sqrt(), atol=1e-5, rtol=1e-4)
        assert gain.square().mean(dim=1).max() < 1.0001
        if scale < 1:
            torch.testing.assert_close(gain, written, atol=0, rtol=1e-5)
    huge = value.detach().half() * 1e3  # whose square has no half-precision number
    assert torch.isfinite(attention(query.half(), key.half(), huge)).all()


def test_without_attention_the_values_go_on():
    query, key, value = maps(4, 4, 4)
    assert GlobalFusionAttention("none")(query, key, value) is value


def test_plane_mode_multiplies_slices_and_competes_over_channels():
    query, key, value = inputs = maps(4, 4, 4, channels=3)
    scores = torch.einsum("bcdij,bcdjk->bcdik", query, key) / 3**0.5
    weights = scores.exp() / scores.exp().sum(1, keepdim=True)
    expected = torch.einsum("bcdij,bcdjk->bcdik", weights, value) * value
    assert_agrees(GlobalFusionAttention("plane")(*inputs), expected, inputs)
    with pytest.raises(InputError, match=r"cubic patches only and got 4 x 4 x 3"):
        GlobalFusionAttention("plane")(*maps(4, 4, 3))


@pytest.mark.parametrize("grid", [(8, 8, 8), (5, 5, 5)], ids=str)
def test_voxel_attention_takes_the_fused_kernel(grid):
    inputs = maps(*grid)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        voxel_attention(*inputs).sum().backward()
    kernels = {event.key for event in profiler.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in kernels
    assert "aten::_scaled_dot_product_flash_attention_for_cpu_backward" in kernels


def test_exact_on_32_cubed_stays_below_400_mb():
    command = [
        sys.executable,
        "speed/networks/global_attention.py",
        "--only",
        "exact",
        "32",
        "--repeats",
        "1",
    ]
    row = json.loads(
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
    )
    assert row["tokens"] == 32_768
    assert row["additional_mb"] < 400


def test_wrong_settings_are_one_clear_sentence():
    with pytest.raises(InputError, match=r"'linear' does not exist.*exact, pooled, channel, plane"):
        GlobalFusionAttention("linear")
    with pytest.raises(InputError, match="`kv_grid` is 0"):
        GlobalFusionAttention(kv_grid=0)
    query, key, _ = maps(4, 4, 4)
    with pytest.raises(InputError, match="where equal ones were expected"):
        GlobalFusionAttention()(query, key, key[..., :2])
