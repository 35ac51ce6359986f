"""`trainer.compile`: a compiled step is the same step, and a checkpoint shows nothing of it."""

import pytest
import torch
from monai.losses import DiceLoss
from torch import nn

from backbones.deep_supervision import DeeplySupervised
from lightning_modules import BackboneModule
from lightning_modules.contracts.settings import FitSettings


class Small(DeeplySupervised):
    """Two convolutions, each with an output of its own: quick to compile."""

    def __init__(self, modalities, regions, size):
        super().__init__()
        self.first, self.second = (nn.Conv3d(4, 4, 3, padding=1) for _ in range(2))
        self.output_layer, self.coarse = (nn.Conv3d(4, regions, 1) for _ in range(2))
        self.feature_channels = 4

    def supervise_deeply(self, regions):
        pass

    def features(self, image):
        return torch.relu(self.second(torch.relu(self.first(image))))

    def forward(self, image):
        return self.output_layer(self.features(image))

    def deep_logits(self, image):
        return [self.forward(image), self.coarse(torch.relu(self.first(image)))[..., ::2, ::2, ::2]]


def gradients(module, batch, compiler):
    module.configure_for_fit(FitSettings((16, 16, 16), compiler=compiler))
    module.train()
    loss = module.compute_loss(batch)
    module.zero_grad()
    loss.backward()
    found = [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]
    return loss.detach(), *found


@pytest.mark.parametrize("deep", [False, True])
def test_it_is_the_same_step_and_the_same_checkpoint(deep, batch):
    torch.manual_seed(0)
    module = BackboneModule(Small, loss=DiceLoss(sigmoid=True), deep_supervision=deep)
    assert module.is_deep == deep
    names, compiled_graphs = list(module.state_dict()), []

    def backend(graph, _):
        compiled_graphs.append(graph)
        return graph.forward

    plain = gradients(module, batch, None)
    assert module._compiled == {}
    compiled = gradients(module, batch, backend)
    assert compiled_graphs
    assert len(plain) == len(compiled) == (9 if deep else 7)
    torch.testing.assert_close(compiled, plain)
    assert list(module.state_dict()) == names
    once = len(compiled_graphs)
    gradients(module, batch, backend)
    module.eval()
    module(batch["image"])
    assert module.compiled(module.forward_with_terms) == module.forward_with_terms
    assert len(compiled_graphs) == once
