"""SAM's image encoder against segment_anything's: outputs and gradients, sizes and variants."""

import copy

import pytest
import torch

from backbones.sam.encoder import SamImageEncoder
from errors import InputError
from tests.backbones.sam.peer import SMALL, peer_encoder, shape_of

TOLERANCE = 1e-5


def relative(expected, found):
    return ((expected - found).norm() / expected.norm()).item()


def pair(variant, image_size, depth=None):
    """Our encoder and the peer with its weights; `depth` blocks up to the first global one."""
    torch.manual_seed(0)
    peer = peer_encoder(variant, image_size, depth)
    with torch.device("meta"):
        own = SamImageEncoder(variant, image_size)
    if depth is not None:
        last = shape_of(variant).global_blocks[0] + 1
        own.blocks = own.blocks[last - depth : last]
    assert own.widths == (shape_of(variant).dim,) * shape_of(variant).depth
    own.load_state_dict(peer.state_dict(), assign=True)
    return own, peer


@pytest.mark.parametrize(
    ("variant", "image_size", "depth"),
    [
        (SMALL, 256, None),
        ("vit_b", 256, None),
        ("vit_l", 256, 2),
        ("vit_h", 256, 2),
        (SMALL, 16, 3),
        (SMALL, 208, 3),  # smaller than a window
        (SMALL, 224, 3),  # exactly a window
        (SMALL, 496, 3),
        (SMALL, 512, 3),
        (SMALL, 1024, 2),
    ],
)
def test_encoder_is_segment_anythings(variant, image_size, depth):
    own, peer = pair(variant, image_size, depth)
    image = torch.randn(1 if image_size > 512 else 2, 3, image_size, image_size)
    with torch.no_grad():
        expected = peer(image)
        assert relative(expected, own(image)) < TOLERANCE
        # Blocks one by one take the kernels of training.
    with torch.enable_grad():
        tokens = own.embed(image).requires_grad_()
        for block in own.blocks[:1]:
            tokens = block(tokens)
    with torch.no_grad():
        peer_tokens = peer.blocks[0](peer.patch_embed(image) + peer.pos_embed)
    assert relative(peer_tokens, tokens) < TOLERANCE


@pytest.mark.parametrize("image_size", [160, 256, 448, 528])
def test_gradients_are_segment_anythings(image_size):
    own, peer = pair(SMALL, image_size, 3)
    image = torch.randn(2, 3, image_size, image_size)
    weight = torch.randn(2, 256, image_size // 16, image_size // 16)
    gradients = []
    for network in (peer, own):
        seen = image.clone().requires_grad_()
        network.zero_grad()
        (network(seen) * weight).sum().backward()
        gradients.append(
            {"image": seen.grad, **{k: v.grad.clone() for k, v in network.named_parameters()}}
        )
    expected, found = gradients
    for name, gradient in expected.items():
        assert relative(gradient, found[name]) < TOLERANCE, name


def test_long_sequences_take_the_fused_kernel_with_the_same_gradients(monkeypatch):
    monkeypatch.setattr("backbones.sam.attention.SHORT", 0)
    test_gradients_are_segment_anythings(256)


def test_a_batch_is_what_its_images_are():
    own, _ = pair(SMALL, 256, 3)
    image = torch.randn(6, 3, 256, 256)
    with torch.no_grad():
        one_by_one = torch.cat([own(one) for one in image.split(1)])
        torch.testing.assert_close(own(image), one_by_one, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32_forward_and_backward():
    own, _ = pair(SMALL, 256, 3)
    image = torch.randn(2, 3, 256, 256)
    weight = torch.randn(2, 256, 16, 16)
    results = []
    for enabled in (False, True):
        seen = image.clone().requires_grad_()
        own.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = own(seen)
        (output.float() * weight).sum().backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            plain = own(image).float()
        blocks = [own.blocks[0].attn.rel_pos_h.grad.clone(), own.blocks[-1].attn.qkv.weight.grad]
        results.append([output.detach().float(), plain, seen.grad, *[b.clone() for b in blocks]])
    for expected, found in zip(*results, strict=True):
        assert relative(expected, found) < 0.05


def test_bfloat16_follows_weights_that_change():
    own, _ = pair(SMALL, 256, 1)
    image = torch.randn(1, 3, 256, 256)

    def output(network=own):
        # a context for each pass, as torch itself keeps casts until the context ends
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return network(image)

    before, layer = output(), own.blocks[0].mlp.lin1
    with torch.no_grad():
        layer.weight.mul_(2)
    assert not torch.equal(before, output())
    layer.weight = torch.nn.Parameter(layer.weight.detach() / 2)
    assert torch.equal(before, output())
    assert torch.equal(before, output(copy.deepcopy(own)))


def test_the_meta_device_gives_the_shape():
    own = SamImageEncoder(SMALL, 512)
    image = torch.zeros(2, 3, 512, 512, device="meta")
    assert copy.deepcopy(own).to("meta")(image).shape == (2, 256, 32, 32)


def test_wrong_sizes_and_variants_are_one_sentence():
    with pytest.raises(InputError, match=r"no variant 'vit_x'.*mobile_sam, lite_medsam, vit_b"):
        SamImageEncoder("vit_x")
    with pytest.raises(InputError, match="mobile_sam is no plain vision transformer"):
        SamImageEncoder("mobile_sam")
    with pytest.raises(InputError, match=r"250 pixels.*multiple of 16.*`image_size` to 256"):
        SamImageEncoder(SMALL, 250)
    with pytest.raises(InputError, match="multiple of 16"):
        SamImageEncoder(SMALL, 0)
    with pytest.raises(InputError, match=r"\(batch, 3, 256, 256\) was expected"):
        SamImageEncoder(SMALL, 256)(torch.zeros(1, 3, 128, 128))
