"""Channels-last weights where they train faster, one kernel for all of a GPU's; values stay."""

import copy
from types import SimpleNamespace

import pytest
import torch
from monai.losses import DiceLoss
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam

from backbones import DynUNet
from lightning_modules import BackboneModule
from lightning_modules.optimisation.kernels import arrange_weights, fuse


class Network(nn.Module):
    """Convolutions of both dimensions, and a parameter of four axes that is no convolution's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.volume, self.back = nn.Conv3d(4, 6, 3, padding=1), nn.ConvTranspose3d(6, 3, 2, 2)
        self.slice, self.linear = nn.Conv2d(4, 6, 3), nn.Linear(5, 3)
        self.position = nn.Parameter(torch.randn(1, 4, 5, 6))


def trained(optimizer, weights, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator)
            weight.grad = torch.empty_like(weight).copy_(drawn)  # in its order, as autograd does
        optimizer.step()
    return [weight.detach().clone() for weight in weights]


def parameters():
    return list(Network().parameters())


def test_weights_of_convolutions_change_their_order_and_no_value():
    network = Network()
    before, image = copy.deepcopy(network.state_dict()), torch.randn(1, 4, 6, 6, 6)
    expected = network.back(network.volume(image))
    arrange_weights(network, "cuda", "bf16-mixed")
    assert list(network.state_dict()) == list(before)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    for layer in (network.volume, network.back):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last_3d)
        assert not layer.weight.is_contiguous()
    assert network.slice.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.position.is_contiguous()
    torch.testing.assert_close(network.back(network.volume(image)), expected)


@pytest.mark.parametrize(
    ("machine", "device", "precision", "arranged"),
    [
        ("x86_64", "cuda", "bf16-mixed", True),
        ("x86_64", "cpu", "32-true", True),
        ("x86_64", "cpu", "bf16-mixed", False),
        ("arm64", "cpu", "32-true", False),
        ("arm64", "mps", "32-true", False),
    ],
)
def test_a_module_arranges_its_weights_where_that_is_faster(
    machine, device, precision, arranged, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    module = BackboneModule(network=DynUNet, size="tiny", loss=DiceLoss(sigmoid=True))
    module._trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        barebones=False,
        precision=precision,
    )
    module.setup("fit")
    convolutions = [one for one in module.modules() if isinstance(one, nn.Conv3d)]
    wide = [one.weight for one in convolutions if one.weight[0].numel() > one.weight.shape[1] > 1]
    assert wide
    assert all(one.is_contiguous() != arranged for one in wide)


def test_on_a_processor_slices_keep_their_order():
    network = Network()
    arrange_weights(network, "cpu", "32-true")
    assert network.slice.weight.is_contiguous()


@pytest.mark.parametrize("kind", [Adam, AdamW, SGD])
def test_a_fused_optimiser_takes_the_steps_of_a_plain_one(kind):
    plain, fused = parameters(), parameters()
    options = {"lr": 0.1, "weight_decay": 0.01}
    ours = kind(fused, **options)
    fuse(ours, device="cpu")  # whose kernels stand for a GPU's
    assert all(group["fused"] for group in ours.param_groups)
    torch.testing.assert_close(
        trained(ours, fused), trained(kind(plain, **options), plain), rtol=1e-5, atol=1e-6
    )


def test_on_a_processor_an_optimiser_stays_as_it_is():
    plain, kept = parameters(), parameters()
    ours = Adam(kept)
    fuse(ours)
    assert ours.param_groups[0]["fused"] is None
    assert all(map(torch.equal, trained(ours, kept), trained(Adam(plain), plain)))


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: Adam(weights, fused=False),
        lambda weights: Adam(weights, foreach=True),
        lambda weights: NAdam(weights),
    ],
)
def test_what_was_chosen_and_what_has_no_such_kernel_stays(optimizer):
    built = optimizer(parameters())
    before = copy.deepcopy([{**group, "params": None} for group in built.param_groups])
    fuse(built, device="cpu")
    assert [{**group, "params": None} for group in built.param_groups] == before


@pytest.mark.parametrize("there_is_gpu", [True, False])
def test_a_training_goes_on_where_its_state_was_made_otherwise(there_is_gpu):
    """From a processor to a GPU, whose weights lie in another order, and back."""
    network, other = Network(), Network()
    arrange_weights(other if there_is_gpu else network, "cuda", "32-true")
    before, weights = Adam(network.parameters()), list(other.parameters())
    fuse(before, device="cuda" if there_is_gpu else "cpu")
    trained(before, list(network.parameters()))
    other.load_state_dict(network.state_dict())
    after = Adam(weights)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    fuse(after, device="cpu" if there_is_gpu else "cuda")
    assert after.param_groups[0]["fused"] is (True if there_is_gpu else None)
    for weight, state in after.state.items():
        assert state["exp_avg"].stride() == weight.stride()
    expected = trained(before, list(network.parameters()))
    torch.testing.assert_close(trained(after, weights), expected, rtol=1e-5, atol=1e-6)
