"""Properties that TransUNet and Swin-Unet share."""

import copy
import re

import pytest
import torch
from torch import nn

from backbones import SwinUnet, TransUNet
from errors import InputError
from tests.channels_last import assert_layout_changes_nothing

NETWORKS = {"TransUNet": TransUNet, "SwinUnet": SwinUnet}
SIDE = 64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=NETWORKS)
def build(request):
    return NETWORKS[request.param]


@pytest.fixture
def network(build):
    return build(4, 2, size="tiny", image_size=SIDE)


def slices(batch=2, modalities=4):
    return torch.randn(batch, modalities, SIDE, SIDE)


def test_shapes_and_forward_is_head_of_features(network):
    network.eval()
    features = network.features(slices())
    assert features.shape == (2, network.feature_channels, SIDE, SIDE)
    before = features.clone()
    logits = network.head(features)
    assert logits.shape == (2, 2, SIDE, SIDE)
    assert torch.equal(features, before)
    image = slices()
    assert torch.equal(network(image), network.head(network.features(image)))


def test_a_gpus_layout_changes_nothing(network):
    assert_layout_changes_nothing(network, slices())


def test_tiny_is_small_at_full_resolution(build):
    network = build(4, 1, size="tiny").eval()
    assert sum(weight.numel() for weight in network.parameters()) < 2_000_000
    with torch.no_grad():
        assert network(torch.randn(1, 4, 256, 256)).shape == (1, 1, 256, 256)


def test_gradient_reaches_every_weight(network):
    logits = network(slices(batch=4))
    (logits * torch.randn_like(logits)).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().sum() > 0, name


def test_mixed_precision_stays_finite_and_close(network):
    image = slices()
    network.eval()
    expected = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(image).float()
        found.mean().backward()
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters())


def test_seed_decides_weights_and_dropout(build):
    image = slices()
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(build(4, 2, size="tiny", image_size=SIDE).train()(image))
    assert torch.equal(*outputs)
    torch.manual_seed(3)
    network = build(4, 2, size="tiny", image_size=SIDE).train()
    assert not torch.equal(network(image), network(image))  # something is dropped in training
    network.eval()
    assert torch.equal(network(image), network(image))


def test_state_dict_round_trip(network):
    image = slices()
    network.train()(image)  # moves running statistics, where there are any
    twin = copy.deepcopy(network)
    for weight in twin.parameters():
        nn.init.normal_(weight)
    assert not torch.equal(twin.eval()(image), network.eval()(image))
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(image), network(image))


def test_base_runs_without_memory(build):
    with torch.device("meta"):
        network = build(4, 3)
        assert network(torch.zeros(2, 4, 256, 256)).shape == (2, 3, 256, 256)


def test_three_modalities_enter_as_they_are(build):
    network = build(3, 1, size="tiny", image_size=SIDE)
    image = slices(modalities=3)
    assert network.stem(image) is image
    assert not list(network.stem.parameters())


def test_modalities_become_three_channels(network):
    image = slices()
    kernel, bias = network.stem.project.weight[:, :, 0, 0], network.stem.project.bias
    expected = torch.einsum("om,bmhw->bohw", kernel, image) + bias[:, None, None]
    torch.testing.assert_close(network.stem(image), expected)


@pytest.mark.parametrize(
    "shape", [(2, 3, SIDE, SIDE), (2, 4, SIDE, SIDE - 1), (2, 4, 32, 32), (4, SIDE, SIDE)]
)
def test_another_image_is_refused(network, shape):
    words = re.escape(f"shape {shape} where (batch, 4, 64, 64) was expected")
    with pytest.raises(InputError, match=words + ".*`slice_size`.*`image_size`"):
        network(torch.zeros(shape))


def test_unknown_size_is_refused(build):
    with pytest.raises(InputError, match=r"no size 'huge'.*base, tiny"):
        build(4, 1, size="huge")
