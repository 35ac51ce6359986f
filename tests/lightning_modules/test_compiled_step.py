"""`trainer.compile`: a compiled step is the same step, and a checkpoint shows nothing of it."""

import pytest
import torch
from monai.losses import DiceLoss

from backbones import DynUNet, ResidualEncoderUNet
from lightning_modules import BackboneModule
from lightning_modules.contracts.settings import FitSettings


def make_module(network=DynUNet, **options):
    torch.manual_seed(0)
    return BackboneModule(network=network, size="tiny", loss=DiceLoss(sigmoid=True), **options)


def gradients(module, batch, compiler):
    module.configure_for_fit(FitSettings((16, 16, 16), compiler=compiler))
    module.train()
    loss = module.compute_loss(batch)
    module.zero_grad()
    loss.backward()
    found = [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]
    return loss.detach(), *found


@pytest.mark.parametrize(
    "make",
    [
        lambda _: make_module(),
        lambda _: make_module(ResidualEncoderUNet, deep_supervision=True),
        lambda request: request.getfixturevalue("fusion_module"),
    ],
    ids=["plain", "deep supervision", "fusion"],
)
def test_it_is_the_same_step_and_the_same_checkpoint(make, batch, request):
    module = make(request)
    names = list(module.state_dict())
    plain = gradients(module, batch, None)
    assert module._compiled == {}
    compiled = gradients(module, batch, "aot_eager")
    assert len(module._compiled) == 1
    assert len(plain) == len(compiled) > 5
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
    assert list(module.state_dict()) == names
    gradients(module, batch, "aot_eager")
    assert len(module._compiled) == 1
    module.eval()
    assert module.compiled(module.forward_with_terms) == module.forward_with_terms
