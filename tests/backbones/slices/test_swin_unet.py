"""Swin-Unet against its parameter count, naive attention, and its published weights' names."""

import math

import pytest
import torch
from monai.networks.layers import DropPath
from torch.nn import functional

from backbones import SwinUnet
from backbones.slices.swin_stage import PatchExpanding, SwinStage
from backbones.slices.swin_unet import window_for
from errors import InputError

SWIN_T = {"dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)}
TINY = {"dim": 24, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8)}
OWN_START = ("stem.", "expands.", "skips.", "norm_up.", "final_expand.", "output.")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def official_shapes(dim, depths, heads, windows=(7, 7, 7, 7)):
    """Names and shapes of `swin_tiny_patch4_window7_224.pth`, at any width and window."""
    shapes = {"patch_embed.proj.weight": (dim, 3, 4, 4), "patch_embed.proj.bias": (dim,)}
    shapes |= {"patch_embed.norm.weight": (dim,), "patch_embed.norm.bias": (dim,)}
    for level, depth in enumerate(depths):
        width, window = dim * 2**level, windows[level]
        for block in range(depth):
            root = f"layers.{level}.blocks.{block}."
            if block % 2 and level < 3:
                shapes[root + "attn_mask"] = (64 // 4**level, window**2, window**2)
            shapes[root + "attn.relative_position_index"] = (window**2, window**2)
            shapes[root + "attn.relative_position_bias_table"] = (
                (2 * window - 1) ** 2,
                heads[level],
            )
            for name, out, inner in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", 4 * width, width),
                ("mlp.fc2", width, 4 * width),
            ):
                shapes |= {f"{root}{name}.weight": (out, inner), f"{root}{name}.bias": (out,)}
            for name in ("norm1", "norm2"):
                shapes |= {f"{root}{name}.{kind}": (width,) for kind in ("weight", "bias")}
        if level < 3:
            root = f"layers.{level}.downsample."
            shapes[root + "reduction.weight"] = (2 * width, 4 * width)
            shapes |= {f"{root}norm.{kind}": (4 * width,) for kind in ("weight", "bias")}
    width = 8 * dim
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    return shapes | {"head.weight": (1000, width), "head.bias": (1000,)}


def official_state(preset, windows=(7, 7, 7, 7)):
    state = {}
    for name, shape in official_shapes(**preset, windows=windows).items():
        spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
        state[name] = torch.randn(shape) * (1 if "table" in name else spread)
        if "norm" in name and name.endswith("weight"):
            state[name] += 1
    return state


def naive_block(state, root, tokens, heads, window, shift):
    """One block from its published names: every token asks every other, one mask at the end."""

    def linear(features, name):
        return features @ state[f"{root}{name}.weight"].T + state[f"{root}{name}.bias"]

    def layer_norm(features, name):
        weight, bias = (state[f"{root}{name}.{kind}"] for kind in ("weight", "bias"))
        return functional.layer_norm(features, weight.shape, weight, bias)

    batch, side, _, dim = tokens.shape
    head = dim // heads
    # Where a token lies after the shift, its window, and whether the shift carried it round.
    place = (torch.arange(side) - shift) % side
    group = torch.stack([place // window, (torch.arange(side) < shift).long()], -1)
    same = (group[:, None] == group[None]).all(-1)
    apart = place[:, None] - place[None]  # (asking, asked), along one axis
    allowed = (same[:, None, :, None] & same[None, :, None, :]).reshape(side**2, side**2)
    rows = apart.clamp(1 - window, window - 1) + window - 1
    index = rows[:, None, :, None] * (2 * window - 1) + rows[None, :, None, :]
    bias = state[root + "attn.relative_position_bias_table"][index.reshape(side**2, side**2)]

    asked = linear(layer_norm(tokens.flatten(1, 2), "norm1"), "attn.qkv")
    query, key, value = asked.reshape(batch, side**2, 3, heads, head).permute(2, 0, 3, 1, 4)
    scores = query @ key.mT / math.sqrt(head) + bias.permute(2, 0, 1)
    scores = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    mixed = (scores @ value).transpose(1, 2).reshape(batch, side**2, dim)
    tokens = tokens.flatten(1, 2) + linear(mixed, "attn.proj")
    hidden = functional.gelu(linear(layer_norm(tokens, "norm2"), "mlp.fc1"))
    return (tokens + linear(hidden, "mlp.fc2")).reshape(batch, side, side, dim)


def naive_encoder(state, image, preset, windows):
    """The bottleneck and the four skips, from published names alone."""
    dim = preset["dim"]
    patches = functional.unfold(image, 4, stride=4).mT  # (B, N, 3 x 4 x 4)
    tokens = patches @ state["patch_embed.proj.weight"].flatten(1).T
    side = math.isqrt(tokens.shape[1])
    tokens = (tokens + state["patch_embed.proj.bias"]).reshape(len(image), side, side, dim)
    names = ("patch_embed.norm", *(f"layers.{level}.downsample.norm" for level in range(3)), "norm")
    norms = [(state[name + ".weight"], state[name + ".bias"]) for name in names]
    tokens = functional.layer_norm(tokens, (dim,), *norms[0])
    skips = []
    for level, depth in enumerate(preset["depths"]):
        skips.append(tokens)
        side, window = tokens.shape[1], windows[level]
        for block in range(depth):
            shift = window // 2 if block % 2 and side > window else 0
            root = f"layers.{level}.blocks.{block}."
            tokens = naive_block(state, root, tokens, preset["heads"][level], window, shift)
        if level < 3:
            quarters = [tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            tokens = torch.cat(quarters, -1)
            tokens = functional.layer_norm(tokens, (tokens.shape[-1],), *norms[level + 1])
            tokens = tokens @ state[f"layers.{level}.downsample.reduction.weight"].T
    return functional.layer_norm(tokens, (tokens.shape[-1],), *norms[4]), skips


def counted(dim, depths, windows, heads, regions):
    """Parameters by hand: three channels in."""
    blocks = [
        depth * (12 * width**2 + 13 * width + (2 * window - 1) ** 2 * head)
        for depth, width, window, head in zip(
            depths, (dim, 2 * dim, 4 * dim, 8 * dim), windows, heads, strict=True
        )
    ]
    embedding = 48 * dim + dim + 2 * dim
    widths = (dim, 2 * dim, 4 * dim)
    merging = sum(8 * width**2 + 8 * width for width in widths)
    expanding = sum(8 * width**2 + 2 * width for width in widths)
    skips = sum(2 * width**2 + width for width in widths)
    norms = 2 * 8 * dim + 2 * dim
    final = 16 * dim**2 + 2 * dim + dim * regions
    return sum(blocks) + sum(blocks[:3]) + embedding + merging + expanding + skips + norms + final


@pytest.mark.parametrize(
    ("modalities", "regions", "depths", "image_size", "parameters", "millions"),
    [
        (3, 2, None, 256, 41_392_932, "41.39"),
        (3, 2, (2, 2, 2, 2), 256, 27_175_620, "27.18"),
        (4, 1, None, 256, 41_392_851, "41.39"),  # this study: four modalities (+15), one region
        (4, 1, (2, 2, 2, 2), 256, 27_175_539, "27.18"),
        (3, 9, (2, 2, 2, 2), 224, 27_168_900, "27.17"),  # the authors' own configuration
    ],
)
def test_base_is_the_papers(modalities, regions, depths, image_size, parameters, millions):
    with torch.device("meta"):
        network = SwinUnet(modalities, regions, image_size=image_size, depths=depths)
    found = sum(weight.numel() for weight in network.parameters())
    assert found == parameters
    assert f"{found / 1e6:.2f}" == millions
    stem = 15 if modalities == 4 else 0
    windows = [8 if image_size == 256 else 7] * 4
    by_hand = counted(96, depths or (2, 2, 6, 2), windows, SWIN_T["heads"], regions)
    assert found == by_hand + stem


@pytest.mark.parametrize(("side", "window", "shift"), [(12, 6, 3), (10, 5, 2), (4, 8, 0)])
def test_windowed_attention_is_masked_global_attention(side, window, shift):
    stage = SwinStage(dim=8, heads=2, side=side, window=window, drop_path=[0.0, 0.1, 0.2]).eval()
    state = {
        name.replace("mlp.linear", "mlp.fc"): torch.randn_like(weight) / 2
        for name, weight in stage.named_parameters()
    }
    stage.load_state_dict(
        {name.replace("mlp.fc", "mlp.linear"): weight for name, weight in state.items()},
        strict=False,  # the index of relative positions is a buffer
    )
    tokens = torch.randn(2, side, side, 8)
    with torch.no_grad():
        found = stage(tokens)
    cut = min(window, side)
    for block in range(3):
        tokens = naive_block(state, f"blocks.{block}.", tokens, 2, cut, shift * (block % 2))
    torch.testing.assert_close(found, tokens, atol=1e-3, rtol=1e-4)


def test_published_weights_compute_what_their_names_say():
    network = SwinUnet(3, 1, size="tiny", image_size=64).eval()
    windows = (8, 8, 4, 2)  # of grids 16, 8, 4 and 2: nothing is resized
    state = official_state(TINY, windows)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if not name.startswith(OWN_START):
                weight.fill_(torch.nan)
        assert network.load_pretrained(state) == []
        assert all(torch.isfinite(weight).all() for weight in network.parameters())
        image = torch.randn(2, 3, 64, 64)
        expected, _ = naive_encoder(state, image, TINY, windows)
        found = []
        network.norm.register_forward_hook(lambda *call: found.append(call[2]))
        network(image)
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)
    for own, theirs in zip(network.decoder, network.encoder, strict=False):
        for name, weight in own.named_parameters():
            assert torch.equal(weight, theirs.get_parameter(name)), name


def test_every_weight_of_the_published_file_counts():
    network = SwinUnet(3, 1, size="tiny", image_size=64)
    state = official_state(TINY)
    network.load_pretrained(state)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    unused = ("head.", "attn_mask", "relative_position_index")
    for name in state:
        if any(word in name for word in unused):
            continue
        network.load_pretrained(state | {name: state[name] + 1})
        moved = [
            own for own, old in before.items() if not torch.equal(network.get_parameter(own), old)
        ]
        mirrored = "blocks" in name and not name.startswith("layers.3")
        assert len(moved) == 1 + mirrored, name
    network.load_pretrained(state)


def test_decoder_is_the_papers_given_the_encoder():
    network = SwinUnet(3, 1, size="tiny", image_size=64).eval()
    windows = (8, 8, 4, 2)
    state = official_state(TINY, windows)
    network.load_pretrained(state)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens, skips = naive_encoder(state, image, TINY, windows)
        for level in (2, 1, 0):
            tokens = network.skips[level](
                torch.cat([network.expands[level](tokens), skips[level]], -1)
            )
            for block in range(2):
                window = windows[level]
                shift = window // 2 if block and tokens.shape[1] > window else 0
                root = f"layers.{level}.blocks.{block}."
                tokens = naive_block(state, root, tokens, TINY["heads"][level], window, shift)
        features = network.final_expand(network.norm_up(tokens)).permute(0, 3, 1, 2)
        found = network.features(image)
    torch.testing.assert_close(found, features, atol=1e-3, rtol=1e-3)


def test_published_shapes_fit_the_base_network():
    shapes = official_shapes(**SWIN_T)
    loaded = {name: shape for name, shape in shapes.items() if "mask" not in name}
    found = sum(math.prod(shape) for name, shape in loaded.items() if "index" not in name)
    assert found == 28_288_354  # Swin-T, as published
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        assert SwinUnet(4, 1).load_pretrained(state) == []
        assert SwinUnet(4, 1, depths=(2, 2, 2, 2)).load_pretrained(state) == []
        absent = SwinUnet(4, 1, depths=(2, 2, 8, 2)).load_pretrained(state)
    assert len(absent) == 2 * 13
    assert all(name.startswith(("layers.2.blocks.6.", "layers.2.blocks.7.")) for name in absent)


def test_relative_positions_are_resized_to_the_window():
    network = SwinUnet(4, 1, size="tiny", image_size=256)
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    own = network.encoder[0].blocks[0].attn.relative_position_bias_table

    def resized(table):
        network.load_pretrained({name: table.reshape(13 * 13, 1)})
        return own.detach().reshape(15, 15).clone()

    torch.testing.assert_close(resized(torch.full((13, 13), 2.5)), torch.full((15, 15), 2.5))
    rows = resized(torch.linspace(-1, 1, 13)[:, None].expand(13, 13))
    torch.testing.assert_close(rows, rows[:, :1].expand(15, 15))  # rows stay rows
    assert (rows[1:, 0] > rows[:-1, 0]).all()
    table = torch.randn(13, 13)
    torch.testing.assert_close(resized(table.flip(0)), resized(table).flip(0))
    torch.testing.assert_close(resized(table.T), resized(table).T)
    bump = torch.zeros(13, 13)
    bump[6, 6] = 1  # a token's position relative to itself
    assert resized(bump).flatten().argmax() == 7 * 15 + 7


def test_tables_of_the_same_window_are_taken_as_they_are():
    network = SwinUnet(4, 1, size="tiny", image_size=224)
    state = official_state(TINY)
    network.load_pretrained(state)
    for level, stage in enumerate(network.encoder):
        for index, block in enumerate(stage.blocks):
            name = f"layers.{level}.blocks.{index}.attn.relative_position_bias_table"
            assert torch.equal(block.attn.relative_position_bias_table, state[name])


def test_patch_expanding_makes_a_square_of_each_token():
    expanding = PatchExpanding(6, 3, scale=2)
    tokens = torch.randn(1, 4, 5, 6)
    found = expanding(tokens)
    assert found.shape == (1, 8, 10, 3)
    grown = expanding.expand(tokens)
    for row in range(8):
        for column in range(10):
            part = (row % 2) * 2 + column % 2
            token = grown[0, row // 2, column // 2, 3 * part : 3 * part + 3]
            torch.testing.assert_close(found[0, row, column], expanding.norm(token))


def test_drop_path_grows_along_the_encoder_and_is_mirrored():
    network = SwinUnet(4, 1, size="tiny", image_size=64, depths=(2, 2, 6, 2))
    rates = [
        [getattr(block.drop_path, "drop_prob", 0.0) for block in stage.blocks]
        for stage in network.encoder
    ]
    expected = [0.2 * index / 11 for index in range(12)]
    assert [rate for stage in rates for rate in stage] == pytest.approx(expected)
    mirrored = [
        [getattr(block.drop_path, "drop_prob", 0.0) for block in stage.blocks]
        for stage in network.decoder
    ]
    assert mirrored == rates[:3]
    assert any(isinstance(module, DropPath) for module in network.modules())


@pytest.mark.parametrize(
    ("image_size", "window"), [(256, 8), (224, 7), (512, 8), (448, 7), (384, 6), (320, 5), (64, 8)]
)
def test_window_tiles_the_four_grids(image_size, window):
    assert window_for(image_size) == window
    for side in (image_size // 4, image_size // 8, image_size // 16, image_size // 32):
        assert side % min(window, side) == 0


@pytest.mark.parametrize(
    ("image_size", "advice"),
    [(240, "224 or 256"), (288, "256 or 320"), (250, "256 or 224"), (0, "32 or 64")],
)
def test_image_size_that_no_window_tiles_is_refused(image_size, advice):
    with pytest.raises(InputError, match=rf"{image_size} pixels.*`slice_size` .* to {advice}\.$"):
        SwinUnet(4, 1, size="tiny", image_size=image_size)


@pytest.mark.parametrize("depths", [(2, 2, 2), (2, 0, 2, 2)])
def test_depths_that_make_no_network_are_refused(depths):
    with pytest.raises(InputError, match=r"set `depths` to 4 positive numbers"):
        SwinUnet(4, 1, size="tiny", depths=depths)


def test_wrong_file_is_refused_and_changes_nothing():
    network = SwinUnet(4, 1, size="tiny", image_size=64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    named = r"swin_tiny_patch4_window7_224.pth, made for `size: base`"
    with pytest.raises(InputError, match=rf"none of the .*{named}"):
        network.load_pretrained({"conv_root/kernel": torch.ones(7, 7, 3, 64)})
    with pytest.raises(InputError, match=rf"shape \(96, 3, 4, 4\), which does not fit .*{named}"):
        network.load_pretrained(official_state(SWIN_T))
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    for table in (torch.ones(160, 1), torch.ones(169, 5), torch.tensor(1.0)):
        with pytest.raises(InputError, match="relative_position_bias_table"):
            network.load_pretrained(official_state(TINY) | {name: table})
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
