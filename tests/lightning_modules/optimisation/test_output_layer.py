"""Rate and initial bias of the output layer."""

import math
from functools import partial

import pytest
import torch
from monai.losses import DiceLoss

from backbones import DynUNet
from errors import InputError
from fusion import DualFusionAttention, FeatureTransitionFusion, LateFusion
from lightning_modules import BackboneModule, FusionModule
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.optimisation.output_layer import OutputLayer
from studies.runs.planning import LATER_OPTIONS


def make(network=DynUNet, **settings):
    torch.manual_seed(0)
    loss = DiceLoss(sigmoid=True)
    return BackboneModule(network=network, size="tiny", loss=loss, **settings)


def test_without_its_options_there_is_one_group_and_the_random_bias():
    module, bias = make(), make().network.output_layer.bias
    module.configure_for_fit(FitSettings((16, 16, 16), prevalence=lambda: [0.1, 0.1, 0.1]))
    assert torch.equal(module.network.output_layer.bias, bias)
    (group,) = module.configure_optimizers().param_groups
    assert len(group["params"]) == len(list(module.parameters()))
    of_volumes = {name: value for name, value in LATER_OPTIONS.items() if name != "regions"}
    assert make(**of_volumes).configure_optimizers().param_groups[0]["lr"] == group["lr"]


def test_the_layer_has_its_own_rate_under_any_schedule():
    def halved(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    module = make(output_rate=4.0, scheduler=halved)
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"]
    optimizer.step()
    configured["lr_scheduler"]["scheduler"].step()
    body, last = optimizer.param_groups
    assert (body["lr"], last["lr"]) == (1.5e-4, 6e-4)
    assert {id(one) for one in last["params"]} == {
        id(one) for one in module.network.output_layer.parameters()
    }
    assert len(body["params"]) + 2 == len(list(module.parameters()))


def test_the_bias_is_the_logit_of_the_prevalence_or_a_number():
    settings = FitSettings((16, 16, 16), prevalence=lambda: [0.2, 0.1, 0.01])
    module = make(output_bias="prevalence")
    module.configure_for_fit(settings)
    expected = torch.tensor([math.log(p / (1 - p)) for p in (0.2, 0.1, 0.01)])
    torch.testing.assert_close(module.network.output_layer.bias.detach(), expected)
    module = make(output_bias=-2)
    module.configure_for_fit(settings)
    assert module.network.output_layer.bias.tolist() == [-2, -2, -2]


def test_given_weights_keep_their_bias_and_the_run_says_so(backbone_files):
    module = make(weights=backbone_files[0], output_bias=-2.0)
    before = module.network.output_layer.bias.clone()
    module.configure_for_fit(FitSettings((16, 16, 16)))
    assert torch.equal(module.network.output_layer.bias, before)
    assert "model.output_bias had no effect" in module.remarks()[0]


def test_a_fusion_head_has_them_too_and_late_fusion_has_no_use_for_them(backbone_files):
    given = {"backbones": backbone_files, "loss": DiceLoss(sigmoid=True), "output_bias": -2.0}
    head = partial(DualFusionAttention, start="zero")
    module = FusionModule(head=head, output_rate=2.0, **given)
    module.configure_for_fit(FitSettings((16, 16, 16)))
    assert module.head.output_layer.bias.tolist() == [-2, -2, -2]
    assert [group["lr"] for group in module.configure_optimizers().param_groups] == [3e-4, 6e-4]
    assert FusionModule(head=LateFusion, output_rate=2.0, **given).has_nothing_to_train


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (DynUNet, {"rate": 0.0}, r"model\.output_rate is 0\.0: expected a factor above 0"),
        (DynUNet, {"bias": math.nan}, r"model\.output_bias is nan: expected a number"),
        (FeatureTransitionFusion, {"bias": -2.0}, "FeatureTransitionFusion does not have"),
    ],
)
def test_values_out_of_range_and_networks_without_one_output_are_refused(
    network, settings, message
):
    with pytest.raises(InputError, match=message):
        OutputLayer(network(4, 3, size="tiny"), **settings)
