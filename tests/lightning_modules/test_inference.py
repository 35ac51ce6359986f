"""Windows, flips, arithmetic: against explicit formulas and MONAI."""

import itertools

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet, SegResNet
from torch import nn

from errors import InputError
from lightning_modules import inference
from lightning_modules.inference import Execution, SlidingWindow, choose_execution

PLAIN = Execution()
FLAGS = {
    "Zen 5": ({"avx512f", "avx512_bf16"}, "bf16"),
    "Sapphire Rapids": ({"avx512f", "avx512_bf16", "amx_bf16"}, "bf16"),
    "Skylake": ({"avx512f"}, "fp32"),
    "unlisted": (set(), "fp32"),
}


def small_network(seed=0):
    torch.manual_seed(seed)
    network = DynUNet(3, 4, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[8, 16, 24]).eval()
    for weight in network.parameters():
        if weight.ndim == 1:
            nn.init.normal_(weight, 1.0, 0.3)  # affine parts must not be the identity
    return network


def position_network(image):
    """A network whose logit depends on the position in the window, to make blending visible."""
    ramp = torch.linspace(-3, 3, image.shape[-1], device=image.device)
    return image[:, :2] + ramp


@pytest.mark.parametrize("machine", FLAGS)
def test_execution_follows_the_processor(monkeypatch, machine):
    flags, expected = FLAGS[machine]
    monkeypatch.setattr(inference, "processor_flags", lambda: frozenset(flags))
    chosen = choose_execution("cpu")
    assert chosen.precision == expected
    assert choose_execution(torch.device("cpu")).to_dict() == chosen.to_dict()
    assert all(isinstance(value, str | bool) for value in chosen.to_dict().values())
    assert choose_execution("cpu", "fp32").precision == "fp32"
    assert choose_execution("cpu", "bf16").precision == "bf16"


def test_on_a_gpu_images_of_both_studies_are_channels_last(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    chosen = choose_execution("cuda")
    assert (chosen.device, chosen.precision, chosen.channels_last) == ("cuda", "bf16", True)
    volume, image = torch.randn(2, 4, 3, 3, 3), torch.randn(2, 4, 3, 3)
    assert chosen.arrange(volume).is_contiguous(memory_format=torch.channels_last_3d)
    assert chosen.arrange(image).is_contiguous(memory_format=torch.channels_last)
    assert choose_execution("cpu").arrange(image).is_contiguous()  # as before
    assert torch.equal(chosen.arrange(volume), volume)
    with Execution("cuda", channels_last=True).active():
        norm = nn.InstanceNorm3d(4)(volume)  # cuDNN's own kernel, not group norm
    assert norm.is_contiguous()


def test_execution_refuses_unknown_precision():
    with pytest.raises(InputError, match=r"fp16.*auto, fp32, bf16"):
        choose_execution("cpu", "fp16")  # type: ignore[arg-type]


def test_execution_overrules_an_outer_autocast_and_builds_no_graph():
    layer = nn.Conv3d(1, 1, 3)
    image = torch.rand(1, 1, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16), PLAIN.active():
        output = layer(image)
    assert output.dtype == torch.float32
    assert not output.requires_grad
    with Execution(precision="bf16").active():
        assert layer(image).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(9, 10, 11), (1, 1, 1)])
def test_channels_last_instance_norm_is_instance_norm(size):
    norm = nn.InstanceNorm3d(6, affine=True, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    image = torch.randn(2, 6, *size)
    layout = Execution(channels_last=True)
    if size == (1, 1, 1):  # no variance: instance norm raises its own error
        with layout.active(), pytest.raises(ValueError, match="more than 1 spatial element"):
            norm(image)
        return
    with layout.active():
        output = norm(layout.arrange(image))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(output, norm(image).detach(), atol=1e-5, rtol=1e-5)


def test_running_statistics_are_left_alone():
    norm = nn.InstanceNorm3d(3, track_running_stats=True).eval()
    norm.running_mean.fill_(5.0)
    image = torch.randn(1, 3, 4, 4, 4)
    with Execution(channels_last=True).active():
        torch.testing.assert_close(norm(image), norm.forward(image))
        assert norm(image).mean() < -4


@pytest.mark.parametrize("build", [small_network, lambda: SegResNet(3, 8, 4, 3).eval()])
def test_memory_layout_leaves_the_network_as_it_is(build):
    network = build()
    image = torch.randn(1, 4, 24, 16, 14)
    window = {
        name: SlidingWindow((16, 16, 16), execution=execution)
        for name, execution in {
            "plain": PLAIN,
            "layout": Execution(channels_last=True),
            "bf16": Execution(precision="bf16", channels_last=True),
        }.items()
    }
    plain = window["plain"](network, image)
    torch.testing.assert_close(window["layout"](network, image), plain, atol=1e-4, rtol=1e-4)
    rough = window["bf16"](network, image)
    assert rough.dtype == torch.float32
    assert (rough - plain).abs().mean() < 0.01


def test_windows_blend_probabilities_not_logits():
    image = torch.randn(1, 3, 12, 9, 40)
    patch = (8, 8, 16)
    ours = SlidingWindow(patch, execution=PLAIN)(position_network, image)
    probabilities = sliding_window_inference(
        image, patch, 4, lambda x: position_network(x).sigmoid(), overlap=0.5, mode="gaussian"
    )
    logits = sliding_window_inference(
        image, patch, 4, position_network, overlap=0.5, mode="gaussian"
    )
    torch.testing.assert_close(ours, probabilities)
    assert (ours - logits.sigmoid()).abs().max() > 0.01


def test_blending_by_the_explicit_formula_in_one_dimension():
    """Two windows of 4 over 6 voxels, constant weights: the middle is the mean of both."""
    image = torch.arange(6.0).reshape(1, 1, 6)
    ramp = torch.tensor([0.0, 1.0, 2.0, 3.0])
    window = SlidingWindow((4,), mode="constant", execution=PLAIN)
    result = window(lambda x: x + ramp, image)[0, 0]
    first = torch.sigmoid(torch.tensor([0.0, 2.0, 4.0, 6.0]))
    second = torch.sigmoid(torch.tensor([2.0, 4.0, 6.0, 8.0]))
    expected = torch.cat([first[:2], (first[2:] + second[:2]) / 2, second[2:]])
    torch.testing.assert_close(result, expected)


def test_flips_average_the_probabilities_of_all_eight():
    network = small_network()
    image = torch.randn(1, 4, 16, 16, 16)
    ours = SlidingWindow((16, 16, 16), tta="flips", execution=PLAIN)(network, image)
    parts = []
    with torch.no_grad():
        for choice in itertools.product((False, True), repeat=3):
            axes = [2 + axis for axis, chosen in enumerate(choice) if chosen]
            parts.append(network(image.flip(axes)).sigmoid().flip(axes))
    torch.testing.assert_close(ours, torch.stack(parts).mean(0), atol=1e-5, rtol=1e-5)
    assert (ours - parts[0]).abs().max() > 0.01


@pytest.mark.parametrize("batch_size", [2, 5, None])
def test_windows_may_share_a_forward_pass(batch_size):
    network = small_network()
    image = torch.randn(2, 4, 24, 16, 24)
    single = SlidingWindow((16, 16, 16), execution=PLAIN, batch_size=1)(network, image)
    batched = SlidingWindow((16, 16, 16), execution=PLAIN, batch_size=batch_size)(network, image)
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("patch", "execution", "windows"),
    [
        (48, PLAIN, {4, 2}),  # 9 windows: the last one would be alone
        (48, Execution(precision="bf16"), {4, 1}),
        (64, PLAIN, {2}),
        (16, PLAIN, {8, 2}),
        (96, PLAIN, {1}),
    ],
)
def test_small_windows_share_a_forward_pass_and_none_is_alone(patch, execution, windows):
    seen = []

    def network(window):
        seen.append(len(window))
        return window[:, :1]

    image = torch.rand(1, 1, patch, 2 * patch, 2 * patch)
    result = SlidingWindow((patch,) * 3, execution=execution)(network, image)
    assert set(seen) == windows
    torch.testing.assert_close(result, image.sigmoid(), atol=1e-2, rtol=0)


def test_a_volume_smaller_than_the_patch_is_padded_with_the_fill():
    seen = []

    def network(window):
        seen.append(window)
        return window

    image = torch.full((1, 1, 6, 10, 12), 2.0)
    window = SlidingWindow((8, 8, 8), fill=-7.0, execution=PLAIN, batch_size=1)
    result = window(network, image)
    assert result.shape == image.shape
    torch.testing.assert_close(result, torch.sigmoid(image))
    assert {part.shape for part in seen} == {(1, 1, 8, 8, 8)}
    assert all(torch.all(part[:, :, (0, -1)] == -7) for part in seen)


def test_two_dimensions_and_a_wrong_number_of_them():
    image = torch.randn(1, 3, 20, 33)
    window = SlidingWindow((16, 16), tta="flips", execution=Execution(channels_last=True))
    assert window(lambda x: x, image).shape == image.shape
    np.testing.assert_allclose(window(lambda x: x, image), image.sigmoid(), atol=1e-6)
    with pytest.raises(ValueError, match="dimensions"):
        window(lambda x: x, image[None])
