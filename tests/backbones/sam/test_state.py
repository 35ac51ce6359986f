"""Official weights, made for 1024 pixels and four masks, fitted to other sizes and regions."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from adapters import EarlyFusionSam
from backbones.sam.decoder import SamMaskDecoder
from backbones.sam.state import fit_state_dict
from errors import InputError
from tests.backbones.sam.peer import peer_decoder, peer_encoder, peer_prompt


@pytest.fixture(scope="module")
def official():
    """A state dict laid out as the official vit_b file."""
    torch.manual_seed(0)
    parts = {
        "image_encoder": peer_encoder("vit_b", 1024),
        "prompt_encoder": peer_prompt(1024),
        "mask_decoder": peer_decoder(masks=4),
    }
    return {
        f"{prefix}.{name}": value
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
    }


def test_positions_are_resized_and_the_first_mask_kept(official):
    fitted = fit_state_dict(official, "vit_b", 256)
    before = official["image_encoder.pos_embed"]
    assert torch.equal(
        fitted["image_encoder.pos_embed"],
        functional.interpolate(before.permute(0, 3, 1, 2), size=(16, 16), mode="bilinear").permute(
            0, 2, 3, 1
        ),
    )
    relative = official["image_encoder.blocks.2.attn.rel_pos_h"]
    assert torch.equal(
        fitted["image_encoder.blocks.2.attn.rel_pos_h"],
        functional.interpolate(relative.t()[None], size=31, mode="linear")[0].t(),
    )
    assert fitted["image_encoder.blocks.0.attn.rel_pos_w"].shape == (27, 64)
    mask = official["mask_decoder.mask_tokens.weight"]
    assert torch.equal(fitted["mask_decoder.mask_tokens.weight"], mask[:1])
    network = EarlyFusionSam("vit_b", 256)
    network.load_base(fitted)
    assert torch.equal(network.decoder.mask_tokens.weight, mask[:1])


def test_three_regions_start_from_the_first_three_masks(official):
    fitted = fit_state_dict(official, "vit_b", 256, regions=3)
    decoder = SamMaskDecoder(3)
    prefix = "mask_decoder."
    decoder.load_state_dict(
        {name.removeprefix(prefix): v for name, v in fitted.items() if name.startswith(prefix)}
    )
    tokens = official[f"{prefix}mask_tokens.weight"]
    assert torch.equal(decoder.mask_tokens.weight, tokens[:3])
    for index, mlp in enumerate(decoder.output_hypernetworks_mlps):
        name = f"{prefix}output_hypernetworks_mlps.{index}.layers.2.weight"
        assert torch.equal(mlp.layers[2].weight, official[name])
    alone = fit_state_dict(official, "vit_b", 256)
    assert torch.equal(alone[f"{prefix}mask_tokens.weight"], tokens[:1])


def test_nothing_changes_at_1024_pixels(official):
    fitted = fit_state_dict(official, "vit_b", 1024)
    for name, value in fitted.items():
        if not name.startswith("mask_decoder."):
            assert torch.equal(value, official[name]), name


def test_the_encoder_alone_is_accepted(official):
    encoder = {k: v for k, v in official.items() if k.startswith("image_encoder.")}
    network = EarlyFusionSam("vit_b", 256)
    decoder = network.decoder.iou_token.weight.clone()
    network.load_base(fit_state_dict(encoder, "vit_b", 256))
    assert torch.equal(network.decoder.iou_token.weight, decoder)
    name = "blocks.3.mlp.lin1.weight"
    assert torch.equal(network.encoder.state_dict()[name], official[f"image_encoder.{name}"])


def test_wrong_weights_are_one_sentence(official):
    with pytest.raises(InputError, match="are of SAM's vit_b where those of vit_l"):
        fit_state_dict(official, "vit_l", 256)
    with pytest.raises(InputError, match=r"not SAM's vit_b.*`image_encoder\.pos_embed`"):
        fit_state_dict({"conv1.weight": torch.zeros(1)}, "vit_b", 256)
    partial = {k: v for k, v in official.items() if "blocks.7.mlp.lin1" not in k}
    with pytest.raises(InputError, match=r"2 of them are missing.*blocks\.7\.mlp\.lin1\.bias"):
        fit_state_dict(partial, "vit_b", 256)
    with pytest.raises(InputError, match="multiple of 16"):
        fit_state_dict(official, "vit_b", 250)


def test_torchvision_is_never_imported():
    code = (
        "import sys, backbones, adapters; from backbones.sam.modeling import sam_modeling; "
        "sam_modeling(); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
