"""TinyViT: the numbers of the original code, the chain of blocks, sizes, wrong input."""

import copy

import pytest
import torch

from backbones import SamImageEncoder, TinyViT
from backbones.sam.bases import build_encoder
from backbones.sam.state import fit_state_dict
from backbones.sam.variants import padding_remark
from errors import InputError
from lightning_modules.weights.pretrained import read_pretrained
from lightning_modules.weights.published import PUBLISHED, published_weights, weights_folder
from speed.networks.plain_tiny_vit import PlainTinyViT
from tests.backbones.sam.peer import published_state

SMALL_BASES = {"mobile_sam": (64, 4), "lite_medsam": (16, 4)}  # a small size and its grid
# The embedding that the packages' own code gives for `wave`: its mean and deviation, and three
# values. Against that code, at 1024, 224 and 192 pixels (MobileSAM) and 256, 112 and 64
# (LiteMedSAM), the relative error was 1.3e-6 to 3.0e-6, that of the image's gradient below 1.3e-5.
ORIGINAL = {
    "mobile_sam": (224, -0.0020406325, 0.1050601751, [-0.0877564251, -0.1653042138, -0.0559924245]),
    "lite_medsam": (112, -0.0046914406, 0.1088619232, [0.0017977306, 0.1214964241, -0.0067728981]),
}


def wave(size):
    """An image (1, 3, size, size) that is the same on every machine."""
    return torch.linspace(-2, 2, 3 * size * size).view(1, 3, size, size).sin()


def lively(variant, size):
    """An encoder whose norms and biases are not those of birth, which would hide a term."""
    torch.manual_seed(0)
    encoder = TinyViT(variant, size).eval()
    for name, value in encoder.state_dict().items():
        if "bias" in name or "running_mean" in name:
            torch.nn.init.normal_(value, std=0.2)
        elif "running_var" in name or "norm.weight" in name or "bn.weight" in name:
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize("variant", ORIGINAL)
def test_published_weights_give_the_numbers_of_the_original_code(
    variant, session_folder, monkeypatch
):
    if not (weights_folder() / PUBLISHED[variant].file).is_file():  # the user's cache stays
        monkeypatch.setenv("TORCH_HOME", str(session_folder / "torch"))
    try:
        file = published_weights(variant)
    except InputError as error:
        if "cannot be fetched" not in str(error) or "another hash" in str(error):
            raise
        pytest.skip(f"no published weights: {error}")
    size, mean, deviation, values = ORIGINAL[variant]
    encoder = TinyViT(variant, size).eval()
    state = fit_state_dict(read_pretrained(file), variant, size)
    prefix = "image_encoder."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if prefix in k})
    with torch.no_grad():
        embedding = encoder(wave(size))
    assert embedding.mean().item() == pytest.approx(mean, rel=1e-4)
    assert embedding.std().item() == pytest.approx(deviation, rel=1e-5)
    assert embedding[0, :3, 3, 5].tolist() == pytest.approx(values, rel=1e-4)


@pytest.mark.parametrize("variant", SMALL_BASES)
def test_a_block_by_block_pass_is_the_whole_encoder(variant):
    size, grid = SMALL_BASES[variant]
    encoder = lively(variant, size)
    assert encoder.widths == (128,) * 2 + (160,) * 6 + (320,) * 2
    image = torch.randn(3, 3, size, size)
    with torch.no_grad():
        tokens = encoder.embed(image)
        for index, width in enumerate(encoder.widths):
            tokens = encoder.step(index, tokens)
            assert tokens.shape[-1] == width
        embedding = encoder.finish(tokens)
        assert embedding.shape == (3, 256, grid, grid)
        torch.testing.assert_close(encoder(image), embedding, rtol=1e-4, atol=1e-5)
    assert len(encoder.attention_blocks) == len(encoder.widths)


def test_the_encoder_is_the_one_that_is_written_plainly():
    encoder = lively("lite_medsam", 56)
    plain, image = PlainTinyViT(encoder), torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        features = plain.embed(image)
        for index in range(len(encoder.widths)):
            features = plain.step(index, features)
        expected = encoder.neck(features)
        error = (encoder(image) - expected).norm() / expected.norm()
    assert error < 1e-5


def test_a_pass_without_gradients_is_split_into_parts(monkeypatch):
    encoder = lively("lite_medsam", 16)
    image = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        together = encoder(image)
        monkeypatch.setattr("backbones.sam.tiny_vit.CACHED_PIXELS", 1)
        torch.testing.assert_close(encoder(image), together, rtol=1e-4, atol=1e-5)


def test_batch_norms_use_their_stored_statistics_unless_the_encoder_is_trained():
    encoder = lively("lite_medsam", 16)
    image = torch.randn(2, 3, 16, 16)
    expected = copy.deepcopy(encoder.state_dict())
    convolution = encoder.layers[0].blocks[0].conv2
    features = torch.randn(1, 256, 8, 8)
    with torch.no_grad():
        plain = convolution.bn(convolution.c(features))
        torch.testing.assert_close(convolution(features), plain, rtol=1e-4, atol=1e-5)
        encoder(image)
        assert all(torch.equal(v, expected[k]) for k, v in encoder.state_dict().items())
        convolution.train()(features)  # only a network that trains its encoder sets this mode
    assert not torch.equal(
        convolution.bn.running_mean, expected["layers.0.blocks.0.conv2.bn.running_mean"]
    )


def test_distances_have_a_bias_each_in_the_order_of_the_files():
    attention = TinyViT("mobile_sam", 64).attention_blocks[0].attn
    offsets, numbers = {}, []
    places = [(row, column) for row in range(7) for column in range(7)]
    for row, column in places:
        for other_row, other_column in places:
            offset = (abs(row - other_row), abs(column - other_column))
            numbers.append(offsets.setdefault(offset, len(offsets)))
    assert attention.index.flatten().tolist() == numbers


def test_padding_takes_part_and_is_cut_off():
    attention = lively("lite_medsam", 16).attention_blocks[0].attn
    tokens = torch.randn(1, 4, 9, 128)
    whole = torch.zeros(1, 7, 14, 128)
    whole[:, :4, :9] = tokens
    with torch.no_grad():
        torch.testing.assert_close(attention(tokens), attention(whole)[:, :4, :9])


def test_every_published_weight_has_a_gradient_but_those_of_statistics():
    encoder = TinyViT("lite_medsam", 16)
    encoder(torch.randn(1, 3, 16, 16)).square().sum().backward()
    without = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    assert not without


@pytest.mark.parametrize("variant", SMALL_BASES)
def test_the_meta_device_gives_the_shape(variant):
    size, grid = SMALL_BASES[variant]
    encoder = build_encoder(variant, size).to("meta")
    image = torch.zeros(2, 3, size, size, device="meta")
    assert encoder(image).shape == (2, 256, grid, grid)


@pytest.mark.parametrize("variant", SMALL_BASES)
def test_published_files_load_strictly_without_the_classifier(variant):
    size = SMALL_BASES[variant][0]
    state = published_state(variant, size)
    fitted = fit_state_dict(state, variant, size)
    assert not any("head." in name and "image_encoder" in name for name in fitted)
    assert fitted["mask_decoder.mask_tokens.weight"].shape == (1, 256)
    name = "image_encoder.layers.2.blocks.5.attn.qkv.weight"
    assert torch.equal(fitted[name], state[name])
    del state["image_encoder.layers.0.blocks.0.conv1.bn.running_var"]
    with pytest.raises(InputError, match=r"1 of them are missing.*conv1\.bn\.running_var"):
        fit_state_dict(state, variant, size)


def test_weights_of_another_variant_are_one_sentence():
    state = published_state("lite_medsam", 16)
    with pytest.raises(InputError, match="are of SAM's lite_medsam where those of mobile_sam"):
        fit_state_dict(state, "mobile_sam", 64)
    with pytest.raises(InputError, match="are of SAM's lite_medsam where those of vit_b"):
        fit_state_dict(state, "vit_b", 64)
    with pytest.raises(InputError, match=r"not SAM's mobile_sam.*patch_embed\.seq\.0\.c\.weight"):
        fit_state_dict({"a.weight": torch.zeros(1)}, "mobile_sam", 64)


def test_wrong_sizes_and_variants_are_one_sentence():
    with pytest.raises(InputError, match=r"100 pixels.*multiple of 16.*`image_size` to 96"):
        TinyViT("mobile_sam", 100)
    with pytest.raises(InputError, match=r"multiple of 4"):
        TinyViT("lite_medsam", 30)
    with pytest.raises(InputError, match=r"vit_b is no TinyViT.*SamImageEncoder"):
        TinyViT("vit_b", 64)
    with pytest.raises(InputError, match=r"\(batch, 3, 64, 64\) was expected"):
        TinyViT("mobile_sam", 64)(torch.zeros(1, 3, 32, 32))
    assert isinstance(build_encoder("vit_b", 32), SamImageEncoder)


def test_sizes_that_fit_no_windows_are_remarked():
    assert padding_remark("mobile_sam", 224) == padding_remark("mobile_sam", 448) == ""
    assert padding_remark("lite_medsam", 112) == padding_remark("vit_b", 256) == ""
    assert "192 pixels: 224 pixels, or any multiple of 224" in padding_remark("mobile_sam", 192)
    assert "any multiple of 56" in padding_remark("lite_medsam", 224 - 4)
