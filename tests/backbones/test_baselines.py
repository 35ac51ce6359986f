"""Baselines: MedNeXt is MONAI's, ResidualEncoderUNet takes the weights of nnU-Net.

That the latter computes what `dynamic_network_architectures` 0.4.2 does was checked once beside it,
in both sizes: the same logits to the last bit, 102,353,167 weights with its coarser output layers.
"""

import pytest
import torch
from monai.networks.nets.mednext import create_mednext

from backbones import MedNeXt, ResidualEncoderUNet
from errors import InputError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("variant", "parameters"), [("S", 5_551_043), ("M", 17_533_635)])
def test_mednext_is_monais_to_the_last_bit_at_any_scale_of_its_features(variant, parameters):
    network = MedNeXt(4, 3, size="base", variant=variant).eval()
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    peer = create_mednext(variant, in_channels=4, out_channels=3).eval()
    network.load_state_dict(peer.state_dict())  # strict, though it has no deviation
    image = torch.randn(1, 4, 32, 32, 32)
    with torch.no_grad():
        expected = peer(image)
        for deviation, factor in ((1.0, 1), (7.3, 8), (0.2, 0.25)):
            network.deviation.fill_(deviation)
            assert torch.equal(network(image), expected)
            if deviation == 1:
                plain = network.features(image)
            assert torch.equal(network.features(image) * factor, plain)


def test_the_deviation_of_mednexts_features_is_learnt_in_training_alone():
    network = MedNeXt(4, 3, size="tiny")
    image = torch.randn(1, 4, 16, 16, 16)
    network.eval()(image)
    assert network.deviation == 1
    network.train()(image)
    assert network.deviation != 1
    again = MedNeXt(4, 3, size="tiny")
    again.load_state_dict(network.state_dict())
    assert again.deviation == network.deviation


@pytest.mark.parametrize(("size", "variant"), [("tiny", "M"), ("base", "XL")])
def test_a_variant_that_a_size_does_not_have_is_refused(size, variant):
    with pytest.raises(InputError, match=rf"size {size} has no variant '{variant}'.*one of S, M"):
        MedNeXt(4, 3, size=size, variant=variant)


def as_nnunet_stores_them(network):
    """The weights under all names of an nnU-Net file, with an output layer a level."""
    stored = {}
    for name, tensor in network.state_dict().items():
        stored[name] = tensor
        first, part, kind = name.rsplit(".", 2)
        if part in ("conv", "norm"):
            index = 0 if part == "conv" else 1
            stored[f"{first}.all_modules.{index}.{kind}"] = tensor
    for name in list(stored):
        if name.startswith("encoder."):
            stored[f"decoder.{name}"] = stored[name]
    for level in range(2):
        stored[f"decoder.seg_layers.{level}.weight"] = torch.randn(3, 32 // 2**level, 1, 1, 1)
        stored[f"decoder.seg_layers.{level}.bias"] = torch.randn(3)
    return stored


def test_weights_of_nnunet_load_and_what_lacks_or_is_foreign_is_named():
    given = ResidualEncoderUNet(4, 3, size="tiny").eval()
    for weight in given.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    stored = as_nnunet_stores_them(given)
    assert len(stored) > 3 * len(given.state_dict())
    network = ResidualEncoderUNet(4, 3, size="tiny").eval()
    network.load_state_dict(stored)
    image = torch.randn(1, 4, 16, 16, 16)
    assert torch.equal(network(image), given(image))
    module = torch.nn.ModuleDict({"network": network})  # as in a training's checkpoint
    module.load_state_dict({f"network.{name}": tensor for name, tensor in stored.items()})
    lacking = {name: one for name, one in stored.items() if "transpconvs.0" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key.*decoder\.transpconvs\.0\.weight"):
        network.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*encoder\.attention"):
        network.load_state_dict({**stored, "encoder.attention": torch.ones(1)})


def test_residual_encoder_has_the_size_of_nnunets_m():
    with torch.device("meta"):
        network = ResidualEncoderUNet(4, 3)
    coarser = 3 * (320 + 256 + 128 + 64) + 4 * 3  # of output layers, for deep supervision
    parameters = sum(weight.numel() for weight in network.parameters())
    assert parameters + coarser == 102_353_167
    assert network.total_stride == 32
    with torch.no_grad():
        fresh = ResidualEncoderUNet(4, 3, size="tiny")
        block = fresh.encoder.stages[1].blocks[1]
        feature_map = torch.randn(1, 16, 4, 4, 4)
        assert torch.allclose(block(feature_map), torch.nn.functional.leaky_relu(feature_map, 0.01))
