"""Output layers of coarser levels: their grids, the finest unchanged, and gradients for all."""

import copy
from pydoc import locate

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from backbones.deep_supervision import DeeplySupervised
from lightning_modules import BackboneModule

NETWORKS = ("DynUNet", "MedNeXt", "ResidualEncoderUNet")


@pytest.fixture(params=NETWORKS)
def build(request):
    return locate(f"backbones.{request.param}")


def test_every_level_but_the_coarsest_is_supervised_on_its_own_grid(build):
    torch.manual_seed(0)
    network = build(4, 3, size="tiny").eval()
    plain = copy.deepcopy(network)
    assert isinstance(network, DeeplySupervised)
    assert len(plain.deep_logits(torch.randn(1, 4, 16, 16, 16))) == 1
    network.supervise_deeply(3)
    image = torch.randn(2, 4, 16, 24, 32)
    levels = network.deep_logits(image)
    assert [tuple(one.shape) for one in levels] == [(2, 3, 16, 24, 32), (2, 3, 8, 12, 16)]
    assert torch.equal(levels[0], network(image))
    assert torch.equal(levels[0], plain(image))
    added = set(network.state_dict()) - set(plain.state_dict())
    assert added == {"deep_heads.0.weight", "deep_heads.0.bias"}
    assert len(network.level_channels) == 3


def module_of(build):
    loss = DiceLoss(sigmoid=True, batch=True)
    return BackboneModule(network=build, size="tiny", loss=loss, deep_supervision=True)


def test_the_loss_is_the_mean_over_levels_each_with_half_the_weight_of_the_finer(build):
    torch.manual_seed(0)
    module = module_of(build)
    for weight in module.network.parameters():  # scales that begin at zero
        if not weight.any():
            torch.nn.init.normal_(weight)
    image = torch.randn(2, 4, 16, 16, 16)
    mask = (torch.rand(2, 3, 16, 16, 16) > 0.6).float()
    twin = copy.deepcopy(module.network).train()
    found = module.train().compute_loss({"image": image, "mask": mask, "case_id": ["a", "b"]})
    fine, coarse = twin.deep_logits(image)
    halved = mask[..., ::2, ::2, ::2]
    assert torch.equal(functional.interpolate(mask, size=(8, 8, 8)), halved)
    expected = module.loss(fine, mask) + 0.5 * module.loss(coarse, halved)
    torch.testing.assert_close(found, expected / 1.5)
    found.backward()
    for name, weight in module.network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_a_network_that_does_not_offer_it_is_trained_as_ever():
    module = module_of(locate("backbones.SegResNet"))
    assert not module.is_deep
    assert not any("deep_heads" in name for name in module.state_dict())
    assert module.remarks() == ["deep supervision had no effect, SegResNet has one output layer"]


def test_its_weights_load_again(build):
    module, again = module_of(build), module_of(build)
    again.load_state_dict(module.state_dict())
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), module.eval()(image))
