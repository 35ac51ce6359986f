"""Rivals of the adapter: what they add to a frozen SAM, and that nothing is added at the start."""

import copy

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional

from adapters import (
    BottleneckSam,
    CrossModalitySam,
    EarlyFusionSam,
    LowRankSam,
    UntrainedBaseSam,
)
from backbones.sam.variants import VARIANTS, Variant, ViTShape
from errors import InputError
from lightning_modules import SamAdapterModule

WIDTHS = (*[128] * 2, *[160] * 6, *[320] * 2)  # of MobileSAM's attention blocks
BASES = ["vit_b", "mobile_sam"]
SMALL = ViTShape(dim=48, depth=6, heads=3, global_blocks=(2, 5))


@pytest.fixture(autouse=True)
def _small_vit(monkeypatch):
    monkeypatch.setitem(VARIANTS, "vit_b", Variant(SMALL))
    torch.manual_seed(0)


def randomise(weights):
    with torch.no_grad():
        for weight in weights:
            weight.normal_(std=0.2)


def without_adapters(kind, variant):
    """The network that a rival is at the start of a training."""
    if kind is LowRankSam:
        return EarlyFusionSam(variant, 64)
    return CrossModalitySam(variant, 64, first_blocks=0)


@pytest.mark.parametrize("variant", BASES)
@pytest.mark.parametrize("kind", [LowRankSam, BottleneckSam])
def test_training_starts_at_the_frozen_model(kind, variant):
    network = kind(variant, 64).eval()
    plain = without_adapters(kind, variant).eval()
    own = {n for n in network.state_dict() if n.split(".")[0] in ("updates", "bottlenecks")}
    shared = {n: v for n, v in network.state_dict().items() if n not in own}
    plain.load_state_dict(shared)  # the base's own names, so that published weights load
    image = torch.randn(2, 4, 64, 64)
    with torch.no_grad():
        expected = plain(image)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
        randomise(weight for name, weight in network.named_parameters() if name in own)
        assert (network(image) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("variant", BASES)
def test_low_rank_updates_change_the_weights_of_query_and_value(variant):
    network = LowRankSam(variant, 64, rank=3).eval()
    randomise(network.updates.parameters())
    plain = EarlyFusionSam(variant, 64).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    blocks = zip(plain.encoder.attention_blocks, network.updates, strict=True)
    with torch.no_grad():
        for block, update in blocks:
            query, value = (
                up.weight @ down.weight for down, up in zip(update.down, update.up, strict=True)
            )
            heads, rows = block.attn.heads, block.attn.qkv.weight
            if variant == "vit_b":  # all queries, all keys, all values
                rows[: len(query)] += query
                rows[2 * len(query) :] += value
            else:  # query, key and value of the first head, then of the next
                for number in range(heads):
                    size = len(query) // heads
                    start = 3 * number * size
                    own = slice(number * size, (number + 1) * size)
                    rows[start : start + size] += query[own]
                    rows[start + 2 * size : start + 3 * size] += value[own]
        image = torch.randn(1, 4, 64, 64)
        found, expected = network.embed(image), plain.embed(image)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_streams_with_bottlenecks_exchange_nothing():
    network = BottleneckSam("mobile_sam", 64).eval()
    randomise(network.bottlenecks.parameters())
    one, other = torch.randn(2, 1, 4, 64, 64)
    mixed = torch.cat([one[:, :2], other[:, 2:]], dim=1)
    swapped = torch.cat([other[:, :2], one[:, 2:]], dim=1)
    with torch.no_grad():
        together = network.embed(one) + network.embed(other)
        apart = network.embed(mixed) + network.embed(swapped)
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
        exchanging = CrossModalitySam("mobile_sam", 64, init="default").eval()
        together = exchanging.embed(one) + exchanging.embed(other)
        apart = exchanging.embed(mixed) + exchanging.embed(swapped)
        assert (together - apart).abs().max() > 1e-2


def test_one_bottleneck_is_behind_the_attention_and_one_beside_the_mlp():
    network = BottleneckSam("mobile_sam", 64).eval()
    randomise(network.bottlenecks.parameters())
    plain = CrossModalitySam("mobile_sam", 64, first_blocks=0).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    block, own = (one.encoder.attention_blocks[3] for one in (plain, network))
    behind, beside = network.bottlenecks[6:8]
    tokens = torch.randn(1, 4, 4, 160)
    with torch.no_grad():
        attended = block.attn(tokens)
        found = tokens + attended + behind.up(functional.gelu(behind.down(attended)))
        found = block.local_conv(found.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        added = beside.up(functional.gelu(beside.down(found)))
        torch.testing.assert_close(own(tokens), found + block.mlp(found) + 0.5 * added)


@pytest.mark.parametrize("kind", [LowRankSam, BottleneckSam])
def test_a_copy_has_adapters_of_its_own(kind):
    network = kind("vit_b", 64).eval()
    twin, image = copy.deepcopy(network), torch.randn(1, 4, 64, 64)
    before = network(image).detach()
    randomise(getattr(twin, "updates" if kind is LowRankSam else "bottlenecks").parameters())
    with torch.no_grad():
        assert torch.equal(network(image), before)
        assert not torch.equal(twin(image), before)


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        (LowRankSam, sum(2 * 4 * 2 * width for width in WIDTHS)),
        (BottleneckSam, sum(2 * (2 * width + 1) * (width // 4) + 2 * width for width in WIDTHS)),
    ],
)
def test_parameters_that_are_added(kind, added):
    with torch.device("meta"):
        network, plain = kind("mobile_sam", 64), without_adapters(kind, "mobile_sam")
    counts, before = network.parameter_counts(), plain.parameter_counts()
    assert {name: counts[name] - before[name] for name in counts} == dict.fromkeys(counts, added)


@pytest.mark.parametrize("variant", BASES)
def test_an_untrained_base_is_trained_as_a_whole(variant):
    network = UntrainedBaseSam(variant, 64).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(w for w in network.parameters() if w.requires_grad)
    image = torch.randn(2, 4, 64, 64)
    network(image).square().mean().backward()
    optimizer.step()
    still = {
        name
        for name, value in network.state_dict().items()
        if torch.equal(value, before[name]) and not name.startswith("decoder.iou_prediction_head")
    }
    assert still == set(network.frozen_state())
    assert all(name.startswith("prompt.") for name in still)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(image[:1]), network(image)[:1], rtol=1e-3, atol=1e-4)


def test_an_untrained_base_refuses_checkpointing():
    with pytest.raises(InputError, match="`checkpointing` is true, but this encoder is trained"):
        UntrainedBaseSam("mobile_sam", 64, checkpointing=True)


def module(network, **options):
    return SamAdapterModule(
        network=network, loss=DiceCELoss(sigmoid=True), image_size=64, **options
    )


def test_an_untrained_base_takes_no_weights_and_differs_by_seed():
    model = module(UntrainedBaseSam)
    assert model.remarks()[0] == "trained base mobile_sam: from random weights"
    torch.manual_seed(1)
    other = module(UntrainedBaseSam, weights="random")
    name = "encoder.neck.0.weight"
    assert not torch.equal(model.network.state_dict()[name], other.network.state_dict()[name])
    assert model.base_hash() == other.base_hash()
    for weights in ("published", "mobile_sam.pt"):
        with pytest.raises(InputError, match="trains its encoder from random weights"):
            module(UntrainedBaseSam, weights=weights)


@pytest.mark.parametrize("rank", [0, 129])
def test_ranks_that_no_block_has_are_refused(rank):
    with pytest.raises(InputError, match=rf"`rank` is {rank}: .* from 1 to 128"):
        LowRankSam("mobile_sam", 64, rank=rank)


@pytest.mark.parametrize("ratio", [0.0, 0.001, 1.5])
def test_bottlenecks_that_are_none_are_refused(ratio):
    with pytest.raises(InputError, match=rf"`ratio` is {ratio}: "):
        BottleneckSam("mobile_sam", 64, ratio=ratio)
