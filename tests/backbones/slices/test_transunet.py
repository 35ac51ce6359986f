"""TransUNet against its parameter count, its formulas, and its published weights' own layout."""

import math

import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from backbones import TransUNet
from backbones.slices.resnetv2 import StandardisedConv2d
from errors import InputError

BASE = {"width": 64, "units": (3, 4, 9), "hidden": 768, "heads": 12, "layers": 12}
TINY = {"width": 16, "units": (1, 1, 2), "hidden": 128, "heads": 4, "layers": 4}
OWN_START = ("stem.", "bottom.", "ups.", "output.")  # what no published file holds


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def official_shapes(width, units, hidden, heads, layers, grid=14):
    """Names and shapes of `R50+ViT-B_16.npz`, at any width."""
    shapes = {"conv_root/kernel": (7, 7, 3, width)}
    shapes |= {f"gn_root/{kind}": (1, 1, 1, width) for kind in ("scale", "bias")}
    channels = width
    for block, count in enumerate(units, start=1):
        middle = width * 2 ** (block - 1)
        for unit in range(1, count + 1):
            root = f"block{block}/unit{unit}/"
            shapes[root + "conv1/kernel"] = (1, 1, channels, middle)
            shapes[root + "conv2/kernel"] = (3, 3, middle, middle)
            shapes[root + "conv3/kernel"] = (1, 1, middle, 4 * middle)
            norms = {"gn1": middle, "gn2": middle, "gn3": 4 * middle}
            if unit == 1:
                shapes[root + "conv_proj/kernel"] = (1, 1, channels, 4 * middle)
                norms["gn_proj"] = 4 * middle
            for norm, size in norms.items():
                shapes |= {f"{root}{norm}/{kind}": (1, 1, 1, size) for kind in ("scale", "bias")}
            channels = 4 * middle
    shapes |= {"embedding/kernel": (1, 1, channels, hidden), "embedding/bias": (hidden,)}
    shapes["cls"] = (1, 1, hidden)
    shapes["Transformer/posembed_input/pos_embedding"] = (1, grid**2 + 1, hidden)
    for layer in range(layers):
        root = f"Transformer/encoderblock_{layer}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{root}{norm}/{kind}": (hidden,) for kind in ("scale", "bias")}
        attention = root + "MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes[f"{attention}{part}/kernel"] = (hidden, heads, hidden // heads)
            shapes[f"{attention}{part}/bias"] = (heads, hidden // heads)
        shapes[attention + "out/kernel"] = (heads, hidden // heads, hidden)
        shapes[attention + "out/bias"] = (hidden,)
        shapes[root + "MlpBlock_3/Dense_0/kernel"] = (hidden, 4 * hidden)
        shapes[root + "MlpBlock_3/Dense_0/bias"] = (4 * hidden,)
        shapes[root + "MlpBlock_3/Dense_1/kernel"] = (4 * hidden, hidden)
        shapes[root + "MlpBlock_3/Dense_1/bias"] = (hidden,)
    shapes |= {f"Transformer/encoder_norm/{kind}": (hidden,) for kind in ("scale", "bias")}
    return shapes | {"head/kernel": (hidden, 21843), "head/bias": (21843,)}


def official_state(preset, grid=14):
    state = {}
    for name, shape in official_shapes(**preset, grid=grid).items():
        spread = 1 / math.sqrt(math.prod(shape[:-1])) if name.endswith("kernel") else 0.3
        state[name] = torch.randn(shape) * spread + name.endswith("scale")
    return state


def reference_tokens(state, image, preset):
    """The encoder, written down from the published file's own names and layouts."""

    def convolve(features, name, stride=1, padding=0):
        kernel = state[name + "/kernel"]  # (H, W, in, out)
        mean = kernel.mean((0, 1, 2))
        kernel = (kernel - mean) / (((kernel - mean) ** 2).mean((0, 1, 2)) + 1e-5).sqrt()
        kernel = torch.einsum("hwio->oihw", kernel)
        return functional.conv2d(features, kernel, stride=stride, padding=padding)

    def group_norm(features, name, groups, eps=1e-6):
        grouped = features.reshape(len(features), groups, -1)
        mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, correction=0)
        normed = ((grouped - mean) / (variance + eps).sqrt()).reshape(features.shape)
        scale, bias = (state[f"{name}/{kind}"].reshape(-1, 1, 1) for kind in ("scale", "bias"))
        return normed * scale + bias

    def layer_norm(tokens, name):
        mean = tokens.mean(-1, keepdim=True)
        normed = (tokens - mean) / (tokens.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return normed * state[name + "/scale"] + state[name + "/bias"]

    groups = preset["width"] // 2
    features = convolve(image, "conv_root", 2, 3)
    features = group_norm(features, "gn_root", groups).relu()
    features = functional.max_pool2d(features, 3, 2)
    for block, count in enumerate(preset["units"], start=1):
        for unit in range(1, count + 1):
            root, stride = f"block{block}/unit{unit}/", 2 if unit == 1 and block > 1 else 1
            shortcut = features
            if unit == 1:
                shortcut = convolve(features, root + "conv_proj", stride)
                shortcut = group_norm(shortcut, root + "gn_proj", shortcut.shape[1], 1e-5)
            features = group_norm(convolve(features, root + "conv1"), root + "gn1", groups).relu()
            features = convolve(features, root + "conv2", stride, 1)
            features = group_norm(features, root + "gn2", groups).relu()
            features = group_norm(convolve(features, root + "conv3"), root + "gn3", groups)
            features = (shortcut + features).relu()
    tokens = torch.einsum("bihw,io->bhwo", features, state["embedding/kernel"][0, 0]).flatten(1, 2)
    tokens = tokens + state["embedding/bias"]
    tokens = tokens + state["Transformer/posembed_input/pos_embedding"][:, 1:]
    for layer in range(preset["layers"]):
        root = f"Transformer/encoderblock_{layer}/"
        attention = root + "MultiHeadDotProductAttention_1/"
        normed = layer_norm(tokens, root + "LayerNorm_0")
        query, key, value = (
            torch.einsum("bnc,chd->bhnd", normed, state[f"{attention}{part}/kernel"])
            + state[f"{attention}{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        scores = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        mixed = torch.einsum("bhnd,hdc->bnc", scores @ value, state[attention + "out/kernel"])
        tokens = tokens + mixed + state[attention + "out/bias"]
        mlp = root + "MlpBlock_3/Dense_"
        hidden = layer_norm(tokens, root + "LayerNorm_2") @ state[mlp + "0/kernel"]
        hidden = functional.gelu(hidden + state[mlp + "0/bias"])
        tokens = tokens + hidden @ state[mlp + "1/kernel"] + state[mlp + "1/bias"]
    return layer_norm(tokens, "Transformer/encoder_norm")


@pytest.mark.parametrize(
    ("modalities", "regions", "image_size", "parameters"),
    [
        (3, 2, 256, 105_322_146),  # the authors' network with their default of two classes
        (3, 2, 224, 105_276_066),
        (4, 1, 256, 105_322_016),  # this study: four modalities (+15), one region (-145)
    ],
)
def test_base_is_the_papers_to_the_last_parameter(modalities, regions, image_size, parameters):
    with torch.device("meta"):
        network = TransUNet(modalities, regions, image_size=image_size)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


def test_profilers_count_is_93_million():
    with torch.device("meta"):
        network = TransUNet(3, 2)
    # Profilers go by a module's exact class; the authors' attention is made of linear layers.
    linear = (nn.Linear, nn.MultiheadAttention, nn.modules.linear.NonDynamicallyQuantizableLinear)
    known = (nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d, *linear)
    counted = sum(
        weight.numel()
        for module in network.modules()
        if type(module) in known
        for weight in module.parameters(recurse=False)
    )
    assert counted == 93_230_690


def test_kernel_is_standardised_over_each_output_channel():
    convolution = StandardisedConv2d(3, 4, kernel_size=3, stride=2, padding=1, bias=False)
    image = torch.randn(2, 3, 9, 9)
    kernels = []
    for kernel in convolution.weight.detach():
        values = kernel.flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        kernels.append((kernel - mean) / math.sqrt(variance + 1e-5))
    expected = functional.conv2d(image, torch.stack(kernels), stride=2, padding=1)
    torch.testing.assert_close(convolution(image), expected)
    with torch.no_grad():
        convolution.weight.mul_(7).add_(3)  # forgotten again by the standardisation
    torch.testing.assert_close(convolution(image), expected, atol=1e-3, rtol=1e-3)


def encoder_tokens(network, image):
    found = []
    handle = network.norm.register_forward_hook(lambda *call: found.append(call[2]))
    network(image)
    handle.remove()
    return found[0]


def test_published_weights_compute_what_their_layout_says():
    network = TransUNet(3, 1, size="tiny", image_size=64).eval()
    state = official_state(TINY, grid=4)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if not name.startswith(OWN_START):
                weight.fill_(torch.nan)
        own = {name: weight.clone() for name, weight in network.named_parameters()}
        assert network.load_pretrained(state) == []
        for name, weight in network.named_parameters():
            if name.startswith(OWN_START):
                assert torch.equal(weight, own[name]), name
            else:
                assert torch.isfinite(weight).all(), name
        image = torch.randn(2, 3, 64, 64)
        expected = reference_tokens(state, image, TINY)
        torch.testing.assert_close(encoder_tokens(network, image), expected, atol=2e-4, rtol=1e-4)


def test_every_weight_of_the_published_file_counts():
    network = TransUNet(3, 1, size="tiny", image_size=64)
    state = official_state(TINY, grid=4)
    network.load_pretrained(state)
    before = [weight.detach().clone() for weight in network.parameters()]
    unused = {"cls", "head/kernel", "head/bias"}
    for name in state.keys() - unused:
        network.load_pretrained(state | {name: state[name] + 1})
        pairs = zip(before, network.parameters(), strict=True)
        assert sum(not torch.equal(old, new) for old, new in pairs) == 1, name
    network.load_pretrained(state)


def test_published_shapes_fit_the_base_network():
    with torch.device("meta"):
        network = TransUNet(4, 1)
        shapes = official_shapes(**BASE)
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        assert network.load_pretrained(state) == []
    assert sum(math.prod(shape) for shape in shapes.values()) > 98_000_000


@pytest.mark.parametrize("image_size", [224, 256, 512])
def test_positions_are_resized_as_the_authors_do(image_size):
    network = TransUNet(4, 1, size="tiny", image_size=image_size)
    published = torch.randn(1, 14**2 + 1, 128)
    network.load_pretrained({"Transformer/posembed_input/pos_embedding": published})
    grid = published[0, 1:].reshape(14, 14, 128).numpy()
    side = image_size // 16
    expected = torch.from_numpy(ndimage.zoom(grid, (side / 14, side / 14, 1), order=1))
    found = network.position_embedding[0].reshape(side, side, 128)
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)


def test_decoder_doubles_with_corners_kept_and_concatenates_the_skip_last():
    up = TransUNet(4, 1, size="tiny", image_size=64).eval().ups[0]
    below, skip = torch.randn(1, 128, 4, 4), torch.randn(1, 128, 8, 8)
    doubled = nn.UpsamplingBilinear2d(scale_factor=2)(below)
    torch.testing.assert_close(up(below, skip), up.convolutions(torch.cat([doubled, skip], 1)))
    kinds = [type(layer) for layer in up.convolutions]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2


def test_skips_are_the_resolutions_of_the_decoder():
    with torch.device("meta"):
        network = TransUNet(4, 1)
        coarsest, skips = network.resnet(torch.zeros(1, 3, 256, 256))
    assert coarsest.shape == (1, 1024, 16, 16)
    assert [tuple(skip.shape[1:]) for skip in skips] == [
        (512, 32, 32),
        (256, 64, 64),
        (64, 128, 128),
    ]


def test_first_blocks_skip_is_filled_with_zeros():
    network = TransUNet(3, 1, size="tiny", image_size=64)
    skip = network.resnet(torch.randn(1, 3, 64, 64))[1][1]
    assert not skip[..., -1].any()
    assert not skip[..., -1, :].any()
    assert skip[..., -2].any()


@pytest.mark.parametrize(("image_size", "advice"), [(250, 256), (16, 32), (0, 32), (257, 272)])
def test_image_size_that_does_not_fit_is_refused(image_size, advice):
    with pytest.raises(
        InputError, match=rf"multiple of 16 .*`slice_size` of the data\) to {advice}"
    ):
        TransUNet(4, 1, size="tiny", image_size=image_size)


def test_absent_names_are_listed_and_keep_their_values():
    network = TransUNet(4, 1, size="tiny", image_size=64)
    kept = network.layers[1].attn.in_proj_weight.detach().clone()
    state = official_state(TINY)
    gone = [
        "block3/unit2/gn2/bias",
        "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel",
    ]
    for name in gone:
        del state[name]
    assert network.load_pretrained(state) == gone
    assert torch.equal(network.layers[1].attn.in_proj_weight, kept)


def test_wrong_file_is_refused_and_changes_nothing():
    network = TransUNet(4, 1, size="tiny", image_size=64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        InputError, match=r"none of the .* R50\+ViT-B_16.npz, made for `size: base`"
    ):
        network.load_pretrained({"layers.0.blocks.0.norm1.weight": torch.ones(96)})
    wider = official_state({**TINY, "hidden": 192})
    with pytest.raises(InputError, match=r"shape .*192.* does not fit this TransUNet"):
        network.load_pretrained(wider)
    flat = official_state(TINY) | {"embedding/kernel": torch.ones(5)}
    with pytest.raises(InputError, match=r"embedding/kernel .* shape \(5,\)"):
        network.load_pretrained(flat)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_normalisations_have_the_authors_epsilons():
    modules = list(TransUNet(4, 1, size="tiny", image_size=32).modules())
    assert {norm.eps for norm in modules if isinstance(norm, nn.LayerNorm)} == {1e-6}
    groups = [norm for norm in modules if isinstance(norm, nn.GroupNorm)]
    projections = {norm.eps for norm in groups if norm.num_groups == norm.num_channels}
    assert projections == {1e-5}
    assert {norm.eps for norm in groups if norm.num_groups != norm.num_channels} == {1e-6}
