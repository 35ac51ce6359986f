"""MultipathAttentionUNet against its published parameter counts and its written formulas."""

import math

import pytest
import torch
from torch.nn import functional

from backbones import MultipathAttentionUNet
from backbones.multipath_attention import MultipathBlock, ResidualAttention, SkipAttention
from errors import InputError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(network):
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(("shared", "published"), [(False, 396_409), (True, 81_044)])
def test_base_has_the_published_number_of_parameters(shared, published):
    assert count(MultipathAttentionUNet(4, 1, shared_block=shared)) == published
    each_output = 3**3 * 16 + 1
    assert count(MultipathAttentionUNet(4, 3, shared_block=shared)) == published + 2 * each_output


def test_attention_by_hand():
    attend = ResidualAttention(1)
    norm, _, convolution = attend.score
    with torch.no_grad():
        norm.weight.fill_(3.0)
        norm.bias.fill_(1.0)
        convolution.weight.zero_()
        convolution.weight[0, 0, 1, 1, 1] = 0.5  # the voxel itself
        convolution.weight[0, 0, 1, 1, 2] = -0.25  # its right neighbour
        convolution.bias.fill_(0.1)
    feature_map = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 1, 2)
    path = torch.tensor([1.0, 5.0]).reshape(1, 1, 1, 1, 2)
    # sums 2 and 8: mean 5, deviation 3, normalised -1 and 1, scaled -2 and 4, after ReLU 0 and 4
    scores = (0.5 * 0 - 0.25 * 4 + 0.1, 0.5 * 4 + 0.1)
    expected = [total / (1 + math.exp(-score)) for total, score in zip((2, 8), scores, strict=True)]
    torch.testing.assert_close(attend(feature_map, path).flatten(), torch.tensor(expected))


def explicit(layer, feature_map, dilation=1):
    norm, _, convolution = layer
    channels = feature_map.shape[1]
    normalised = functional.group_norm(feature_map, channels, norm.weight, norm.bias)
    return functional.conv3d(
        normalised.relu(), convolution.weight, convolution.bias, 1, dilation, dilation
    )


def explicit_attention(attend, total):
    return total * explicit(attend.score, total).sigmoid()


def test_block_is_its_formula_with_its_dilations():
    block = MultipathBlock(2)
    feature_map = torch.randn(2, 2, 9, 10, 11)
    attended = []
    for path, dilations in zip(block.paths, [(1, 2, 4), (2, 4, 1)], strict=True):
        end = feature_map
        for layer, dilation in zip(path, dilations, strict=True):
            end = explicit(layer, end, dilation)
        attended.append(explicit_attention(block.attend, feature_map + end))
    expected = explicit(block.join, torch.cat([feature_map, *attended], 1))
    torch.testing.assert_close(block(feature_map), expected, atol=1e-5, rtol=1e-4)


def test_skip_projects_both_maps_alike():
    gate = SkipAttention(2)
    skip, upsampled = torch.randn(2, 1, 2, 4, 4, 4)
    weight = gate.project.weight[:, :, 0, 0, 0]
    total = torch.einsum("oc,bcdhw->bodhw", weight, skip + upsampled)
    total = total + 2 * gate.project.bias[:, None, None, None]
    expected = explicit_attention(gate.attend, total)
    torch.testing.assert_close(gate(skip, upsampled), expected, atol=1e-5, rtol=1e-4)


def test_shared_block_is_separate_blocks_of_equal_weights():
    shared = MultipathAttentionUNet(size="tiny", shared_block=True).eval()
    separate = MultipathAttentionUNet(size="tiny").eval()
    image = torch.randn(1, 4, 8, 8, 8)
    assert not torch.equal(shared(image), separate(image))
    separate.load_state_dict(shared.state_dict())
    assert torch.equal(shared(image), separate(image))


def test_dropout_takes_whole_modalities_and_only_while_training():
    network = MultipathAttentionUNet(size="tiny")
    drop = network.enter[0]
    left = drop(torch.ones(200, 4, 2, 2, 2)).flatten(2)  # (200, 4, 8)
    assert torch.equal(left, left[..., :1].expand_as(left))
    assert 0.15 < (left[..., 0] == 0).float().mean() < 0.25
    torch.testing.assert_close(left[left > 0].unique(), torch.tensor([1 / 0.8]))
    image = torch.randn(2, 4, 8, 8, 8)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_mixed_precision_layouts_and_shapes_without_data():
    network = MultipathAttentionUNet(size="tiny").eval()
    image = torch.randn(1, 4, 12, 14, 16)
    expected = network(image)
    layout = image.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(network(layout), expected, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image)
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    meta = MultipathAttentionUNet(size="base").to("meta")
    assert meta(torch.zeros(2, 4, 128, 128, 128, device="meta")).shape == (2, 3, 128, 128, 128)


def test_missing_modality_and_odd_patch_are_one_sentence():
    network = MultipathAttentionUNet(size="tiny")
    with pytest.raises(InputError, match=r"MultipathAttentionUNet of size tiny .*\(batch, 4, "):
        network(torch.randn(1, 3, 8, 8, 8))
    with pytest.raises(InputError, match="`patch_size` to 8 x 8 x 10"):
        network(torch.randn(1, 4, 8, 7, 9))
