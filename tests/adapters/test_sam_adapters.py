"""The adapter and its rivals on a frozen SAM: counts, identity at zero, what moves and what not."""

import copy

import pytest
import torch
from torch.nn import functional

from adapters import (
    BottleneckSam,
    CrossModalityAdapter,
    CrossModalitySam,
    EarlyFusionSam,
    LowRankSam,
    SingleModalitySam,
    UntrainedBaseSam,
)
from backbones.sam.variants import VARIANTS, Variant
from errors import InputError
from tests.backbones.sam.peer import SMALL
from tests.channels_last import assert_layout_changes_nothing

SYSTEMS = {
    "single": lambda: SingleModalitySam("vit_b", 64, modality="flair"),
    "early": lambda: EarlyFusionSam("vit_b", 64),
    "adapter": lambda: CrossModalitySam("vit_b", 64),
    "checkpointing": lambda: CrossModalitySam("vit_b", 64, checkpointing=True),
    "single mobile": lambda: SingleModalitySam("mobile_sam", 64, modality="flair"),
    "early lite": lambda: EarlyFusionSam("lite_medsam", 16),
    "adapter mobile": lambda: CrossModalitySam("mobile_sam", 64),
    "checkpointing mobile": lambda: CrossModalitySam("mobile_sam", 64, checkpointing=True),
    "adapter lite": lambda: CrossModalitySam("lite_medsam", 16),
    "three regions": lambda: CrossModalitySam("mobile_sam", 64, regions=3),
    "low rank": lambda: LowRankSam("vit_b", 64),
    "low rank mobile": lambda: LowRankSam("mobile_sam", 64),
    "bottleneck": lambda: BottleneckSam("vit_b", 64),
    "bottleneck mobile": lambda: BottleneckSam("mobile_sam", 64),
    "untrained base": lambda: UntrainedBaseSam("mobile_sam", 64),
}


@pytest.fixture
def small_vit(monkeypatch):
    """A vit_b of a quarter of its width, which a test can afford."""
    monkeypatch.setitem(VARIANTS, "vit_b", Variant(SMALL))


def built(name):
    torch.manual_seed(0)
    return SYSTEMS[name]()


def regions_of(network):
    return len(network.decoder.mask_tokens.weight)


def step(network, image, bfloat16=False):
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = network(image)
    mask = (image[:, : logits.shape[1]] > 0).float()
    functional.binary_cross_entropy_with_logits(logits, mask).backward()
    optimizer.step()
    return logits


@pytest.mark.parametrize(
    ("build", "every", "trained"),
    [
        (lambda: EarlyFusionSam("vit_b", 256), 90_316_252, 3_637_392),
        (lambda: CrossModalitySam("vit_b", 256, first_blocks=6), 97_398_751, 10_719_891),
        (lambda: CrossModalitySam("vit_b", 512), 98_004_959, 10_719_891),
        (lambda: SingleModalitySam("vit_b", 256), 90_316_237, 3_637_377),
        (lambda: CrossModalityAdapter(768), 1_180_416, 1_180_416),
        (lambda: CrossModalitySam("mobile_sam", 224), 9_658_739, 3_908_627),
        (lambda: CrossModalitySam("lite_medsam", 112), 9_641_587, 3_908_627),
    ],
)
def test_parameters_are_the_published_counts(build, every, trained):
    with torch.device("meta"):
        network = build()
    if isinstance(network, CrossModalityAdapter):
        assert sum(weight.numel() for weight in network.parameters()) == every == trained
    else:
        assert network.parameter_counts() == {"all": every, "trained": trained}


def test_adapters_of_a_tiny_vit_have_the_width_of_their_block():
    with torch.device("meta"):
        network = CrossModalitySam("mobile_sam", 224)
    widths = [adapter.fuse.out_features for adapter in network.adapters]
    assert widths == [128, 128, 160, 160, 160, 160]
    assert sum(weight.numel() for weight in network.adapters.parameters()) == 271_232
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    assert trained == 3_776_786  # without the head for a mask's quality


@pytest.mark.usefixtures("small_vit")
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_gpus_layout_changes_nothing(name):
    network = built(name)
    side = network.image_size
    assert_layout_changes_nothing(network, torch.randn(2, 4, side, side))


@pytest.mark.usefixtures("small_vit")
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_moves_all_that_is_trained_and_nothing_frozen(name, bfloat16):
    network = built(name).train()
    before = copy.deepcopy(network.state_dict())
    side = network.image_size
    logits = step(network, torch.randn(2, 4, side, side), bfloat16)
    assert logits.shape == (2, regions_of(network), side, side)
    assert logits.isfinite().all()
    frozen = network.frozen_state()
    for key, value in network.state_dict().items():
        if key in frozen or "iou_prediction_head" in key:
            assert torch.equal(value, before[key]), key
    for key, weight in network.named_parameters():
        if key in frozen:
            assert weight.grad is None
            assert not weight.requires_grad
        elif "iou_prediction_head" not in key:
            assert weight.grad is not None, key
            assert weight.grad.isfinite().all(), key
    assert not torch.equal(network.decoder.mask_tokens.weight, before["decoder.mask_tokens.weight"])
    moving, parts = set(), set()
    for key, weight in network.named_parameters():
        if weight.requires_grad:  # a part, or one of the adapters: layers after zeros do not move
            first, second, *_ = key.split(".")
            parts.add(part := first + second if second.isdigit() else first)
            moving |= {part} if weight.grad is not None and weight.grad.any() else set()
    assert moving == parts
    assert network.decoder.training
    assert network.encoder.training == isinstance(network, UntrainedBaseSam)
    assert not network.prompt.training


@pytest.mark.usefixtures("small_vit")
def test_counts_split_the_state_into_frozen_and_trained():
    network = built("adapter")
    names = {name for name, _ in network.named_parameters()}
    frozen = names & set(network.frozen_state())
    assert {name.split(".")[0] for name in frozen} == {"encoder", "prompt"}
    assert {name.split(".")[0] for name in names - frozen} == {"decoder", "adapters", "colours"}


@pytest.mark.usefixtures("small_vit")
def test_zero_adapters_leave_the_frozen_model():
    network = built("adapter").eval()
    image = torch.randn(2, 4, 64, 64)
    with torch.no_grad():
        streams = [
            network.encoder(colour(image[:, channels]))  # z-scores are vit_b's own range
            for colour, channels in zip(network.colours, ([0, 1], [2, 3]), strict=True)
        ]
        expected = network.decode(streams[0] + streams[1])
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
        twin = CrossModalitySam("vit_b", 64, merge="mean")
        twin.load_state_dict(network.state_dict())
        torch.testing.assert_close(
            twin.embed(image), (streams[0] + streams[1]) / 2, rtol=1e-4, atol=1e-5
        )


def test_the_adapter_adds_one_term_to_both_streams():
    adapter = CrossModalityAdapter(8, init="default")
    first, second = torch.randn(2, 2, 4, 4, 8)
    found = adapter(first, second)
    common = functional.conv2d(
        torch.cat([first, second], dim=-1).permute(0, 3, 1, 2),
        adapter.fuse.weight[..., None, None],
        adapter.fuse.bias,
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(found[0], first + common)
    torch.testing.assert_close(found[1] - found[0], second - first)
    assert all(
        torch.equal(*pair)
        for pair in zip(adapter.__class__(8)(first, second), (first, second), strict=True)
    )


@pytest.mark.usefixtures("small_vit")
@pytest.mark.parametrize("variant", ["vit_b", "mobile_sam"])
def test_adapters_follow_the_first_blocks(variant):
    torch.manual_seed(0)
    network = CrossModalitySam(variant, 64, first_blocks=3, init="default").eval()
    encoder, image = network.encoder, torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        first, second = (
            encoder.embed(network.paint(colour(part)))
            for colour, part in zip(
                network.colours, network.prepare(image).split(2, dim=1), strict=True
            )
        )
        for index in range(len(encoder.widths)):
            first, second = encoder.step(index, first), encoder.step(index, second)
            if index < 3:
                first, second = network.adapters[index](first, second)
        expected = encoder.finish(first) + encoder.finish(second)
        torch.testing.assert_close(network.embed(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_vit")
@pytest.mark.parametrize("base", ["", " mobile"])
def test_checkpointing_changes_no_gradient(base):
    image = torch.randn(2, 4, 64, 64)
    gradients = []
    for name in (f"adapter{base}", f"checkpointing{base}"):
        network = built(name)
        step(network, image)
        gradients.append([one.grad for one in network.colours.parameters()])
    torch.testing.assert_close(*gradients)


def test_colours_begin_as_grey_of_the_bases_own_range():
    torch.manual_seed(0)
    network = EarlyFusionSam("mobile_sam", 64).eval()
    image = torch.zeros(1, 4, 64, 64)
    image[:, :, 8:56, 8:56] = torch.randn(1, 4, 48, 48)
    seen = network.paint(network.colours(network.prepare(image)))
    black = network.paint(torch.zeros(1, 3, 1, 1))
    torch.testing.assert_close(seen[:, :, :8], black.expand(1, 3, 8, 64))
    grey = network.prepare(image).mean(dim=1, keepdim=True)
    torch.testing.assert_close(seen, network.paint(grey.expand(-1, 3, -1, -1)))
    assert [weight.shape for weight in network.colour_weights()] == [(3, 4, 1, 1), (3,)]
    assert SingleModalitySam("mobile_sam", 64).colour_weights() == []


@pytest.mark.parametrize(("variant", "side"), [("mobile_sam", 64), ("lite_medsam", 16)])
def test_a_single_modality_is_grey_in_the_bases_own_range(variant, side):
    torch.manual_seed(0)
    network = SingleModalitySam(variant, side, modality="t2").eval()
    image = 3 * torch.randn(2, 4, side, side) + 5
    low, high = (one(image[:, 2], dim=(1, 2), keepdim=True) for one in (torch.amin, torch.amax))
    grey = (image[:, 2] - low) / (high - low)
    colours = torch.stack([grey] * 3, dim=1)
    if variant == "mobile_sam":  # mean and deviation of photographs, from 0 to 255, as SAM's
        mean, deviation = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])
        colours = (255 * colours - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    with torch.no_grad():
        expected = network.encoder(colours)
        torch.testing.assert_close(network.embed(image), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("small_vit")
def test_groups_take_any_number_of_modalities():
    network = CrossModalitySam("vit_b", 64, groups=[["flair"], ["t1", "t2", "t1ce"]])
    assert network.channels == [[3], [0, 2, 1]]
    assert network(torch.zeros(1, 4, 64, 64)).shape == (1, 1, 64, 64)
    assert CrossModalitySam("vit_b", 64, first_blocks=0).parameter_counts()["trained"] == 3_637_395


@pytest.mark.usefixtures("small_vit")
def test_a_single_modality_needs_no_other():
    network = built("single").eval()
    assert network.fixed_input
    image = torch.randn(1, 4, 64, 64)
    other = image.clone()
    other[:, :3] = 0
    with torch.no_grad():
        assert torch.equal(network(image), network(other))
        assert torch.equal(network(image), network.decode(network.embed(image)))
    assert not network.embed(image).requires_grad


@pytest.mark.usefixtures("small_vit")
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_meta_device_gives_the_shape(name):
    network = copy.deepcopy(built(name)).to("meta")
    side = network.image_size
    image = torch.zeros(2, 4, side, side, device="meta")
    assert network(image).shape == (2, regions_of(network), side, side)


@pytest.mark.usefixtures("small_vit")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"first_blocks": 13}, "13 but vit_b has 12 attention blocks.*from 0 to 12"),
        ({"first_blocks": 11, "variant": "mobile_sam"}, "mobile_sam has 10 attention blocks"),
        ({"first_blocks": -1}, "from 0 to 12"),
        ({"merge": "max"}, "merged by 'max'.*sum or mean"),
        ({"init": "ones"}, "no init 'ones'.*zero or default"),
        ({"groups": [["t1", "t2"]]}, "two groups"),
        ({"groups": [["t1"], []]}, "two groups"),
        ({"groups": [["t1", "t2"], ["t2"]]}, "'t2' stands twice"),
        ({"groups": [["t1"], ["pet"]]}, "no modality 'pet'.*t1, t1ce, t2, flair"),
        ({"variant": "vit_g"}, "no variant 'vit_g'"),
        ({"image_size": 100}, "multiple of 16"),
    ],
)
def test_wrong_options_are_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        CrossModalitySam(**{"variant": "vit_b", "image_size": 64, **options})


@pytest.mark.usefixtures("small_vit")
def test_wrong_images_and_modalities_are_one_sentence():
    with pytest.raises(InputError, match="no modality 'T2'"):
        SingleModalitySam("vit_b", 64, modality="T2")
    with pytest.raises(InputError, match=r"EarlyFusionSam got .*\(batch, 4, 64, 64\)"):
        built("early")(torch.zeros(1, 3, 64, 64))
