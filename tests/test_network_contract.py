"""The contract of every backbone and every fusion head, one line a network."""

import copy
from functools import partial
from pydoc import locate

import pytest
import torch
from torch import nn

from backbones import DynUNet, PlannedUNet, SegResNet
from errors import InputError
from fusion import DualFusionAttention, EarlyFusion, FeatureTransitionFusion, LateFusion
from tests.channels_last import assert_layout_changes_nothing

PLANNED = {
    "filters": [8, 12, 16],
    "kernels": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
    "counts": [1, 2, 2],
    "decoder_counts": [1, 2],
}
BACKBONES = {
    "DynUNet": DynUNet,
    "SegResNet": SegResNet,
    "DynUNet-instance": partial(DynUNet, norm="instance"),
    "DynUNet-group": partial(DynUNet, norm="group"),
    "SegResNet-instance": partial(SegResNet, norm="instance"),
    "SegResNet-group": partial(SegResNet, norm="group"),
    "MedNeXt": locate("backbones.MedNeXt"),
    "ResidualEncoderUNet": locate("backbones.ResidualEncoderUNet"),
    "PlannedUNet-plain": partial(PlannedUNet, **PLANNED),
    "PlannedUNet-residual": partial(PlannedUNet, **PLANNED, residual=True),
    "PlannedUNet-classes": partial(PlannedUNet, **PLANNED, classes=[[0, 4], [2], [1], [3]]),
    "MultipathAttentionUNet": locate("backbones.MultipathAttentionUNet"),
    "TriAttentionFusion": locate("fusion.TriAttentionFusion"),
    "FeatureTransitionFusion": locate("fusion.FeatureTransitionFusion"),
}
HEADS = {
    "LateFusion": LateFusion,
    "EarlyFusion": EarlyFusion,
    "DualFusionAttention": DualFusionAttention,
    "DualFusionAttention-pooled": partial(DualFusionAttention, exact_below=100),
    "DualFusionAttention-channel": partial(DualFusionAttention, attention="channel"),
    "DualFusionAttention-released": partial(DualFusionAttention, variant="released"),
}
CHANNELS = (8, 4)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param](4, 3, size="tiny")


@pytest.fixture(params=HEADS)
def head(request):
    return HEADS[request.param](CHANNELS, 3, size="tiny")


def head_inputs(*grid, batch=2):
    features = [torch.randn(batch, channels, *grid) for channels in CHANNELS]
    return features, [torch.randn(batch, 3, *grid) for _ in CHANNELS]


def leave_zero(network: nn.Module) -> None:
    """Move off zero what begins there on purpose, such as the scale of a residual branch."""
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight)


def assert_every_weight_learns(network: nn.Module, output: torch.Tensor) -> None:
    (output * torch.randn_like(output)).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().sum() > 0, name


def test_backbone_shapes(backbone):
    image = torch.randn(2, 4, 16, 24, 32)
    features = backbone.features(image)
    assert features.shape == (2, backbone.feature_channels, 16, 24, 32)
    assert backbone.head(features).shape == (2, 3, 16, 24, 32)


def test_a_gpus_layout_changes_nothing(backbone):
    assert_layout_changes_nothing(backbone, torch.randn(1, 4, 16, 16, 16))


def test_backbone_forward_is_head_of_features_and_leaves_the_features_alone(backbone):
    backbone.eval()
    image = torch.randn(1, 4, 16, 16, 16)
    features = backbone.features(image)
    before = features.clone()
    logits = backbone.head(features)
    assert torch.equal(features, before)
    assert torch.equal(backbone(image), logits)


def test_backbone_features_are_the_input_of_the_last_layer_at_unit_scale(backbone):
    """What a fusion head relies on: trained, one scale for all, and no more than a linear map away.

    Before its normalisation SegResNet's map grows in training: a deviation of 3 to 10.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 4, 16, 16, 16, generator=generator)
    image[:, :, 4:12, 4:12, 4:12] += 2
    mask = torch.zeros(2, 3, 16, 16, 16)
    mask[:, :, 4:12, 4:12, 4:12] = 1
    optimizer = torch.optim.Adam(backbone.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(backbone.train()(image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        features = backbone.eval().features(image)
        assert 0.3 < features.std() < 3
        last = backbone.head if hasattr(backbone, "output_layer") else backbone.out
        others = torch.randn(features.shape, generator=generator)
        both = last(features + others) + last(torch.zeros_like(features))
        apart = last(features) + last(others)
    torch.testing.assert_close(both, apart, atol=1e-4, rtol=1e-4)


def test_backbone_gradient_reaches_every_weight(backbone):
    leave_zero(backbone)
    image = torch.randn(2, 4, 16, 16, 16)
    if not hasattr(backbone, "forward_with_terms"):
        return assert_every_weight_learns(backbone, backbone(image))
    logits, terms = backbone.forward_with_terms(image)
    learnt = torch.cat([logits.flatten(), *(term.reshape(1) for term in terms.values())])
    return assert_every_weight_learns(backbone, learnt)


def test_backbone_names_the_patch_size_that_fits(backbone):
    stride = backbone.total_stride
    two, three = 2 * stride, 3 * stride
    for sides, fitting in (
        ((two, two + 1, three), (two, three, three)),
        ((stride, two, two), (two, two, two)),
    ):
        advice = " x ".join(map(str, fitting))
        with pytest.raises(InputError, match=f"`patch_size` to {advice}"):
            backbone(torch.randn(1, 4, *sides))
        assert backbone(torch.randn(1, 4, *fitting)).shape == (1, 3, *fitting)


def test_the_bias_of_the_output_layer_is_a_shift_of_the_logits(backbone):
    if not hasattr(backbone, "output_layer"):  # its regions are sums of softmax classes
        assert isinstance(backbone, FeatureTransitionFusion) or backbone.classes
        return
    image = torch.randn(1, 4, 16, 16, 16)
    with torch.no_grad():
        before = backbone.eval()(image)
        backbone.output_layer.bias += torch.tensor([1.0, 2.0, 3.0])
        shift = (backbone(image) - before).mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(shift, torch.tensor([1.0, 2.0, 3.0]), atol=1e-4, rtol=0)


def test_backbone_refuses_other_modalities(backbone):
    with pytest.raises(InputError, match="in_channels"):
        backbone(torch.randn(1, 3, 16, 16, 16))


@pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)
def test_backbone_refuses_unknown_sizes(build):
    with pytest.raises(InputError, match=r"no size 'huge'.*base, tiny"):
        build(4, 3, size="huge")


@pytest.mark.parametrize("build", [DynUNet, SegResNet])
def test_backbone_refuses_unknown_normalisations(build):
    with pytest.raises(InputError, match=r"no normalisation 'layer'.*batch, instance, group"):
        build(4, 3, norm="layer")


def test_backbone_state_dict_round_trip(backbone):
    backbone.train()(torch.randn(2, 4, 16, 16, 16))  # moves running statistics, if any
    image = torch.randn(1, 4, 16, 16, 16)
    twin = copy.deepcopy(backbone)
    for weight in twin.parameters():
        nn.init.normal_(weight)
    assert not torch.equal(twin.eval()(image), backbone.eval()(image))
    twin.load_state_dict(backbone.state_dict())
    assert torch.equal(twin(image), backbone(image))


def test_head_shapes(head):
    assert head(*head_inputs(8, 8, 8)).shape == (2, 3, 8, 8, 8)


def test_head_takes_odd_and_unequal_sides_or_says_why_not(head):
    features, logits = head_inputs(7, 6, 5)
    if getattr(head, "attend", None) is not None and head.attend.mode == "plane":
        with pytest.raises(InputError, match="cubic"):
            head(features, logits)
    else:
        assert head(features, logits).shape == (2, 3, 7, 6, 5)


def test_head_gradient_reaches_every_weight(head):
    if not list(head.parameters()):
        assert isinstance(head, LateFusion)
        return
    leave_zero(head)
    assert_every_weight_learns(head, head(*head_inputs(8, 8, 8)))


def test_head_runs_in_mixed_precision(head):
    features, logits = head_inputs(8, 8, 8)
    expected = head(features, logits)
    with torch.autocast("cpu", torch.bfloat16):
        found = head([one.bfloat16() for one in features], [one.bfloat16() for one in logits])
    error = (found.float() - expected).abs().mean() / expected.abs().mean()
    assert error < 0.05
    if found.requires_grad:
        found.float().sum().backward()


def test_head_keeps_its_inputs(head):
    features, logits = head_inputs(8, 8, 8)
    before = [one.clone() for one in (*features, *logits)]
    head(features, logits)
    assert all(torch.equal(a, b) for a, b in zip((*features, *logits), before, strict=True))


def test_head_state_dict_round_trip(head):
    features, logits = head_inputs(8, 8, 8)
    twin = copy.deepcopy(head)
    for weight in twin.parameters():
        nn.init.normal_(weight)
    twin.load_state_dict(head.state_dict())
    assert torch.equal(twin(features, logits), head(features, logits))


@pytest.mark.parametrize("build", [EarlyFusion, DualFusionAttention])
def test_trained_head_refuses_wrong_sizes_and_features(build):
    with pytest.raises(InputError, match="no size 'huge'"):
        build(CHANNELS, size="huge")
    head = build(CHANNELS, size="tiny")
    features, logits = head_inputs(8, 8, 8)
    with pytest.raises(InputError, match=r"built for feature maps of \[8, 4\].*got \[4, 8\]"):
        head(features[::-1], logits)
    with pytest.raises(InputError, match="different grids"):
        head([features[0], features[1][..., :4]], logits)
