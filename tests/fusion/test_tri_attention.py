"""TriAttentionFusion against values by hand, and what its constraint may not change."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from errors import InputError
from fusion import TriAttentionFusion
from fusion.tri_attention import CorrelationConstraint, DilatedResidualBlock, DualAttention

MODALITIES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sigmoid(score):
    return 1 / (1 + math.exp(-score))


def test_dual_attention_by_hand():
    fuse = DualAttention(2)
    squeeze, _, excite, _ = fuse.modality
    with torch.no_grad():
        squeeze.weight.copy_(torch.tensor([[1.0, -1.0]]))
        squeeze.bias.fill_(0.5)
        excite.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        excite.bias.copy_(torch.tensor([0.0, 0.25]))
        fuse.space[0].weight.copy_(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1, 1))
        fuse.space[0].bias.fill_(-1.0)
    joined = torch.tensor([[1.0, 4.0], [2.0, 0.0]]).reshape(1, 2, 1, 1, 2)
    # means over the grid 2.5 and 1; hidden 2.5 - 1 + 0.5 = 2; scores 4 and -1.75
    of_channels = [sigmoid(4), sigmoid(-1.75)]
    of_voxels = [sigmoid(0.5 * 1 + 2 - 1), sigmoid(0.5 * 4 + 0 - 1)]
    expected = [
        [1 * (of_channels[0] + of_voxels[0]), 4 * (of_channels[0] + of_voxels[1])],
        [2 * (of_channels[1] + of_voxels[0]), 0],
    ]
    torch.testing.assert_close(fuse(joined).reshape(2, 2), torch.tensor(expected))
    found = fuse.weights(joined)
    torch.testing.assert_close(found[0].flatten(), torch.tensor(of_channels))
    torch.testing.assert_close(found[1].flatten(), torch.tensor(of_voxels))


def constraint(coefficients):
    """A constraint over two channels whose alpha, beta and gamma are given by modality."""
    correlation = CorrelationConstraint(2)
    with torch.no_grad():
        for modality, values in coefficients.items():
            correlation.coefficients[modality][2].weight.zero_()
            correlation.coefficients[modality][2].bias.copy_(torch.tensor(values))
    return correlation


def test_constraint_is_the_divergence_of_partner_and_prediction_both_ways():
    coefficients = {
        name: np.random.default_rng(seed).normal(size=6) for seed, name in enumerate(MODALITIES)
    }
    maps = dict(zip(MODALITIES, torch.randn(4, 2, 2, 1, 2, 3), strict=True))
    divergences = []
    for source, target in (("t1", "t1ce"), ("t1ce", "t1"), ("t2", "flair"), ("flair", "t2")):
        alpha, beta, gamma = coefficients[source].reshape(3, 1, 2)
        known = maps[source].movedim(1, -1).reshape(-1, 2).double().numpy()
        predicted = alpha * known**2 + beta * known + gamma
        partner = maps[target].movedim(1, -1).reshape(-1, 2).double().numpy()
        divergences.append(
            stats.entropy(special.softmax(partner, 1), special.softmax(predicted, 1), axis=1).mean()
        )
    found = constraint(coefficients)(tuple(maps.values()))
    assert found.item() == pytest.approx(np.mean(divergences), rel=1e-5)


def test_constraint_is_zero_where_the_prediction_is_the_partner():
    identity = constraint({name: [0.0, 0.0, 1.0, 1.0, 0.0, 0.0] for name in MODALITIES})
    one, other = torch.randn(2, 1, 2, 2, 2, 2)
    assert identity((one, one, other, other)).item() == pytest.approx(0, abs=1e-6)
    assert identity((one, other, one, other)).item() > 0.1


def test_coefficients_come_from_the_mean_of_the_map_predicted_from():
    correlation = CorrelationConstraint(2)
    feature_map = torch.randn(1, 2, 3, 3, 3)
    alpha, beta, gamma = (
        correlation.coefficients["t2"](feature_map.flatten(2).mean(2))
        .reshape(3, 2, 1, 1, 1)
        .unbind()
    )
    expected = alpha * feature_map**2 + beta * feature_map + gamma
    torch.testing.assert_close(correlation.predict("t2", feature_map), expected)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [100.0, 6e4])  # 6e4 squared overflows half precision
def test_constraint_is_finite_and_fp32_for_half_maps(kind, size):
    correlation = CorrelationConstraint(2)
    maps = tuple(
        (size * torch.randn(1, 2, 2, 2, 2).sign()).to(kind).requires_grad_() for _ in range(4)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = correlation(maps)
    exact = correlation(tuple(one.detach().float() for one in maps))
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    torch.testing.assert_close(found, exact)
    found.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in correlation.parameters())
    if size * size < torch.finfo(kind).max:  # else the maps' gradients, in half, may not fit
        assert all(torch.isfinite(one.grad).all() for one in maps)


def test_block_has_dilations_two_and_four_and_keeps_what_entered():
    block = DilatedResidualBlock(1, 2, stride=2)
    convolutions = [one for one in block.residual if isinstance(one, torch.nn.Conv3d)]
    assert [one.dilation for one in convolutions] == [(2, 2, 2), (4, 4, 4)]
    image = torch.randn(1, 1, 12, 8, 10)
    assert block(image).shape == (1, 2, 6, 4, 5)
    torch.nn.init.zeros_(convolutions[-1].weight)
    assert torch.equal(block(image), block.enter(image))


def trained(weight, keep_term):
    torch.manual_seed(3)
    network = TriAttentionFusion(size="tiny", correlation_weight=weight)
    image = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    logits, terms = network.forward_with_terms(image)
    loss = logits.square().mean()
    if keep_term:
        loss = loss + sum(terms.values())
    loss.backward()
    gradients = {name: one.grad for name, one in network.named_parameters()}
    return network, logits, terms, gradients


def test_weight_zero_is_the_same_network_without_the_constraint():
    plain, plain_logits, no_terms, plain_gradients = trained(0, keep_term=True)
    full, logits, terms, gradients = trained(0.1, keep_term=False)
    assert no_terms == {}
    assert list(terms) == ["correlation"]
    assert torch.equal(plain_logits, logits)
    added = set(full.state_dict()) - set(plain.state_dict())
    assert added
    assert all(name.startswith("correlation.") for name in added)
    assert list(plain_gradients) == [name for name in gradients if name not in added]
    for name, one in plain_gradients.items():
        assert torch.equal(one, gradients[name]), name
    _, _, _, with_term = trained(0.1, keep_term=True)
    assert all(with_term[name].abs().sum() > 0 for name in added)
    bottom = "encoders.0.blocks.3.enter.weight"
    assert not torch.equal(with_term[bottom], plain_gradients[bottom])


def test_term_is_weighted_and_scalar():
    _, _, light, _ = trained(0.1, keep_term=False)
    _, _, heavy, _ = trained(0.3, keep_term=False)
    assert light["correlation"].shape == ()
    assert light["correlation"].dtype == torch.float32
    torch.testing.assert_close(heavy["correlation"], 3 * light["correlation"])


def test_encoders_see_one_modality_each():
    network = TriAttentionFusion(size="tiny")
    image = torch.randn(1, 4, 16, 16, 16)
    other = image.clone()
    other[:, 1] += 1
    for level, changed in zip(network.encode(image), network.encode(other), strict=True):
        same = [torch.equal(one, two) for one, two in zip(level, changed, strict=True)]
        assert same == [True, False, True, True]


def test_maps_are_the_weights_of_the_finest_level_and_of_every_level():
    network = TriAttentionFusion(size="tiny")
    image = torch.randn(2, 4, 16, 24, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(one.dtype == torch.float32 for one in network.maps(image).values())
    maps = network.maps(image)
    assert network.map_channels == {
        "modality_attention": MODALITIES,
        "spatial_attention": ("stride_1", "stride_2", "stride_4", "stride_8"),
    }
    for name, one in maps.items():
        assert one.shape == (2, 4, 16, 24, 16)
        assert len(network.map_channels[name]) == one.shape[1]
        assert not one.requires_grad
        assert 0 <= one.min() < one.max() <= 1
    levels = network.encode(image)
    joined = torch.cat(levels[0], dim=1)
    of_channels, of_voxels = network.fuse[0].weights(joined)
    means = of_channels.reshape(2, 4, 4).mean(2)  # four channels a modality
    assert torch.allclose(maps["modality_attention"][..., 0, 0, 0], means)
    assert torch.equal(maps["spatial_attention"][:, :1], of_voxels)
    _, coarsest = network.fuse[3].weights(torch.cat(levels[3], dim=1))  # (2, 1, 2, 3, 2)
    corner = maps["spatial_attention"][:, 3, 0, 0, 0]
    torch.testing.assert_close(corner, coarsest[:, 0, 0, 0, 0])


def test_mixed_precision_layouts_and_shapes_without_data():
    network = TriAttentionFusion(size="tiny")
    image = torch.randn(1, 4, 24, 16, 24)
    expected = network(image)
    layout = image.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(network(layout), expected, atol=1e-4, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        found, terms = network.forward_with_terms(image)
    assert terms["correlation"].dtype == torch.float32
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    meta = TriAttentionFusion().to("meta")
    assert meta(torch.zeros(1, 4, 128, 128, 128, device="meta")).shape == (1, 3, 128, 128, 128)


def test_base_has_five_levels_and_says_what_it_takes():
    base = TriAttentionFusion()
    assert [block.enter.out_channels for block in base.encoders[3].blocks] == [8, 16, 32, 64, 128]
    assert sum(one.numel() for one in base.parameters()) == 8_495_712
    with pytest.raises(InputError, match=r"size base .*`patch_size` to 32 x 48 x 32"):
        base(torch.zeros(1, 4, 16, 40, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 3}, "encoder for each of t1, t1ce, t2, flair and got in_channels 3"),
        ({"correlation_weight": -0.1}, "correlation_weight is -0.1 where 0 or more"),
        ({"correlation_weight": math.nan}, "correlation_weight is nan"),
        ({"correlation_weight": math.inf}, "correlation_weight is inf"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        TriAttentionFusion(size="tiny", **arguments)
