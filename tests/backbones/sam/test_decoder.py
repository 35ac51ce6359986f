"""SAM's mask decoder over a batch against segment_anything's, image by image."""

import pytest
import torch

from backbones.sam.decoder import SamMaskDecoder, SamPrompt
from tests.backbones.sam.peer import peer_decoder, peer_masks, peer_prompt


@pytest.mark.parametrize(("image_size", "regions"), [(64, 1), (64, 3), (256, 1)])
def test_decoder_is_segment_anythings(image_size, regions):
    torch.manual_seed(0)
    decoder, prompt = peer_decoder(regions), peer_prompt(image_size)
    own_decoder, own_prompt = SamMaskDecoder(regions), SamPrompt(image_size)
    own_decoder.load_state_dict(decoder.state_dict())
    own_prompt.load_state_dict(prompt.state_dict())
    side = image_size // 16
    embedding = torch.randn(3, 256, side, side)
    weight = torch.randn(3, regions, 4 * side, 4 * side)
    results = []
    for network, masks_of in (
        (decoder, lambda seen: peer_masks(decoder, prompt, seen)),
        (own_decoder, lambda seen: own_decoder(*own_prompt(seen))),
    ):
        seen = embedding.clone().requires_grad_()
        masks = masks_of(seen)
        (masks * weight).sum().backward()
        gradients = {k: v.grad for k, v in network.named_parameters()}
        results.append((masks.detach(), seen.grad, gradients))
    (masks, on_image, on_weights), (own_masks, own_on_image, own_on_weights) = results
    assert (masks - own_masks).norm() < 1e-5 * masks.norm()
    assert (on_image - own_on_image).norm() < 1e-5 * on_image.norm()
    largest = max(value.norm() for value in on_weights.values() if value is not None)
    for name, value in on_weights.items():
        if value is None:
            assert name.startswith("iou_prediction_head.")
            assert own_on_weights[name] is None
        else:  # the gradient of a key's bias is nought but for rounding
            error = (value - own_on_weights[name]).norm()
            assert error < 1e-5 * value.norm() + 1e-8 * largest, name


def test_positions_are_exact_under_autocast():
    own = SamPrompt(256)
    embedding = torch.zeros(1, 256, 16, 16)
    exact = own(embedding)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own(embedding)[1], exact)


def test_bfloat16_gradients_are_near_float32():
    torch.manual_seed(0)
    decoder, prompt = SamMaskDecoder(), SamPrompt(64)
    embedding = torch.randn(4, 256, 4, 4)
    found = []
    for enabled in (False, True):
        decoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            masks = decoder(*prompt(embedding)).float()
        (masks - 1).square().mean().backward()
        found.append({k: v.grad.clone() for k, v in decoder.named_parameters() if v.requires_grad})
    for name, value in found[0].items():
        if not name.endswith("k_proj.bias"):
            assert (value - found[1][name]).norm() < 0.25 * value.norm(), name
