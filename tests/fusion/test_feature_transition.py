"""The networks of Zhang et al. 2021 against their published sizes and a written-out forward."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from errors import InputError
from fusion.feature_transition import (
    GROUPS,
    FeatureTransition,
    FeatureTransitionFusion,
    PatchDiscriminator,
    TransitionUNet,
    region_logits,
)


def count(*modules):
    return sum(weight.numel() for module in modules for weight in module.parameters())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_base_has_the_published_sizes():
    first, second = FeatureTransition("base"), FeatureTransitionFusion(4, 3, "base")
    for index in (0, 1):
        generator = count(first.streams[index], first.translate[index])
        assert generator == 4_121_682  # published: 4.12 M
        assert round(generator / 1e6, 2) == 4.12
        assert count(first.critics[index]) == 698_609  # published: 0.70 M
    assert count(second) == 8_285_212  # published: 8.29 M


def test_inner_levels_halve_their_width():
    body = TransitionUNet(2, (16, 32, 64, 128, 256))
    pairs = [*body.down, body.bottom, *body.up]
    widths = [
        (pair[0][0].in_channels, pair[0][0].out_channels, pair[1][0].out_channels) for pair in pairs
    ]
    assert widths == [
        (2, 16, 16), (16, 32, 32), (32, 64, 64), (64, 128, 128), (128, 256, 128),
        (256, 128, 64), (128, 64, 32), (64, 32, 16), (32, 16, 16),
    ]  # fmt: skip


def test_a_body_gives_full_and_half_resolution():
    full, half = TransitionUNet(2, (8, 16, 32, 64))(torch.randn(1, 2, 16, 24, 16))
    assert full.shape == (1, 8, 16, 24, 16)
    assert half.shape == (1, 8, 8, 12, 8)


def test_a_translation_is_made_of_the_other_group_alone():
    network = FeatureTransition("tiny").eval()
    image = torch.randn(1, 4, 16, 16, 16)
    before = network(image)
    changed = image.clone()
    changed[:, GROUPS[0]] += torch.randn(1, 2, 16, 16, 16)
    after = network(changed)
    assert torch.equal(before[:, GROUPS[0]], after[:, GROUPS[0]])  # made of T2 and FLAIR
    assert not torch.allclose(before[:, GROUPS[1]], after[:, GROUPS[1]])


def test_a_discriminator_judges_patches():
    critic = PatchDiscriminator(2, (16, 32, 64, 128))
    assert critic(torch.randn(1, 2, 64, 64, 64)).shape == (1, 1, 3, 3, 3)
    assert [type(layer).__name__ for layer in critic.layers[:3]] == [
        "Conv3d",
        "LeakyReLU",
        "Conv3d",
    ]


def test_region_probabilities_are_sums_of_classes():
    logits = 20 * torch.randn(2, 4, 3, 3, 3)
    classes = logits.double().softmax(dim=1)
    whole, core, enhancing = torch.sigmoid(region_logits(logits).double()).unbind(dim=1)
    assert torch.allclose(whole, classes[:, 1:].sum(dim=1), atol=1e-6)
    assert torch.allclose(core, classes[:, 1] + classes[:, 3], atol=1e-6)
    assert torch.allclose(enhancing, classes[:, 3], atol=1e-6)
    assert region_logits(logits.bfloat16()).dtype == torch.float32


def test_fusion_is_masked_by_the_sum_of_both_streams_classes():
    network = FeatureTransitionFusion(4, 3, "tiny").eval()
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        (a, a_half), (b, b_half) = (
            network.streams[i](image[:, group]) for i, group in enumerate(GROUPS)
        )
        mask = F.softmax(network.classify[0](a), 1) + F.softmax(network.classify[1](b), 1)
        half = network.fuse_half(torch.cat([a_half, b_half], 1))
        half = F.interpolate(half, scale_factor=2, mode="trilinear", align_corners=False)
        fused = network.fuse(torch.cat([network.fuse_full(torch.cat([a, b], 1)), half], 1))
        expected = torch.cat([fused * mask[:, i : i + 1] for i in range(4)], 1)
        assert torch.equal(network.features(image), expected)
    assert torch.allclose(mask.sum(dim=1), torch.full_like(mask[:, 0], 2.0))
    assert network.feature_channels == expected.shape[1] == 32


def test_what_it_cannot_pair_is_refused():
    with pytest.raises(InputError, match="pairs four modalities"):
        FeatureTransitionFusion(3, 3)
    with pytest.raises(InputError, match="classifies three regions"):
        FeatureTransitionFusion(4, 1)
    with pytest.raises(InputError, match="no size 'huge'"):
        FeatureTransition("huge")
    with pytest.raises(InputError, match="`patch_size` to 32 x 32 x 32"):
        FeatureTransition("base")(torch.zeros(1, 4, 16, 16, 16))


def test_a_judgement_of_small_patches_has_finite_gradients_in_bfloat16():
    critic = PatchDiscriminator(2, (8, 16, 32))
    with torch.autocast("cpu", torch.bfloat16):
        judged = critic(torch.randn(1, 2, 24, 24, 24))
    assert judged.dtype == torch.float32
    assert judged.shape[2:] == (2, 2, 2)
    judged.sum().backward()
    assert torch.isfinite(critic.out.weight.grad).all()
    assert critic.out.weight.grad.abs().max() < 1e3  # unwritten memory holds anything
