"""The base backbones are the paper's: MONAI's networks, to the last parameter and the last bit."""

import pytest
import torch
from monai.networks import nets

from backbones import DynUNet, SegResNet

pytestmark = pytest.mark.slow

PEERS = {
    "DynUNet": (
        DynUNet,
        lambda: nets.DynUNet(
            spatial_dims=3,
            in_channels=4,
            out_channels=3,
            kernel_size=[3, 3, 3, 3, 3, 3],
            strides=[1, 2, 2, 2, 2, 2],
            upsample_kernel_size=[2, 2, 2, 2, 2],
            filters=[32, 64, 128, 256, 320, 320],
            norm_name="instance",
            deep_supervision=False,
        ),
        31_184_355,
        32,
    ),
    "SegResNet": (
        SegResNet,
        lambda: nets.SegResNet(
            blocks_down=(1, 2, 2, 4),
            blocks_up=(1, 1, 1),
            init_filters=16,
            in_channels=4,
            out_channels=3,
            dropout_prob=0.2,
        ),
        4_702_227,
        16,
    ),
}


@pytest.mark.parametrize(
    ("build", "build_peer", "parameters", "channels"), PEERS.values(), ids=PEERS
)
def test_base_is_monai_to_the_last_bit(build, build_peer, parameters, channels):
    torch.manual_seed(0)
    network, peer = build(4, 3, size="base"), build_peer()
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    assert network.feature_channels == channels
    peer.load_state_dict(network.state_dict())  # strict: the same names and shapes
    image = torch.randn(1, 4, 64, 64, 64)
    for mode in (True, False):
        network.train(mode)
        peer.train(mode)
        with torch.no_grad():
            torch.manual_seed(1)  # dropout draws the same channels
            found = network.head(network.features(image))
            torch.manual_seed(1)
            assert torch.equal(found, peer(image))


def test_base_dynunet_needs_64_voxels():
    with pytest.raises(ValueError, match=r"at least 64, so set `patch_size` to 64 x 64 x 64"):
        DynUNet(4, 3, size="base")(torch.zeros(1, 4, 32, 32, 32))
