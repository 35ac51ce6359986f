"""Files as MONAI's model zoo and nnU-Net v2 write them, of small networks with random weights."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets import SegResNet
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CHANNELS, OUTPUTS = ("T1c", "T1", "T2", "FLAIR"), ("Tumor core", "Whole tumor", "Enhancing tumor")
PREPARATION = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
]
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
CLASSES = {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}


def write_bundle(
    folder: Path,
    channels: tuple[str, ...] = CHANNELS,
    outputs: tuple[str, ...] = OUTPUTS,
    spacing: float | None = None,
    window: tuple[int, ...] = (24, 24, 24),
    transforms: list[dict[str, Any]] = PREPARATION,
    **network: Any,
) -> SegResNet:
    """Write a MONAI bundle; return its network, of the size `tiny` unless told otherwise."""
    settings = {"init_filters": 8, "norm": "BATCH", **network}
    blocks = {"blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1)}
    given = SegResNet(
        in_channels=len(channels), out_channels=len(outputs), **{**blocks, **settings}
    )
    randomise(given)
    for name in ("models", "configs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(given.state_dict(), folder / "models" / "model.pt")
    stated = {
        part: {name: {"channel_def": {str(number): one for number, one in enumerate(names)}}}
        for part, name, names in (("inputs", "image", channels), ("outputs", "pred", outputs))
    }
    write_json(folder / "configs" / "metadata.json", {"network_data_format": stated})
    resampled = [] if spacing is None else [{"_target_": "Spacingd", "pixdim": [spacing] * 3}]
    content = {
        "network_def": {"_target_": "SegResNet", **settings},
        "preprocessing": {"_target_": "Compose", "transforms": [*transforms, *resampled]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(window)},
    }
    write_json(folder / "configs" / "inference.json", content)
    return given.eval()


def plans(residual: bool = False, **configuration: Any) -> dict[str, Any]:
    """Content of a `plans.json` whose axes all differ."""
    kind = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    counts = {"n_blocks_per_stage": [1, 2, 2]} if residual else {"n_conv_per_stage": [2, 1, 2]}
    layers = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 1], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1]],
        **counts,
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    fullres = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16, 24, 20],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 4,
        "use_mask_for_norm": [True] * 4,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
            "arch_kwargs": layers,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **configuration,
    }
    return {
        "dataset_name": "Dataset137_BraTS2021",
        "transpose_forward": [0, 1, 2],
        "configurations": {"2d": {"patch_size": [192, 160]}, "3d_fullres": fullres},
    }


def write_results(
    folder: Path,
    plan: dict[str, Any] | None = None,
    labels: dict[str, Any] = REGIONS,
    channels: tuple[str, ...] = ("FLAIR", "T1", "T1Gd", "T2"),
    **checkpoint: Any,
) -> dict[str, Tensor]:
    """Write a folder of results with one fold; return its weights."""
    plan = plan or plans()
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    layers = plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    outputs = 3 if any(isinstance(one, list) for one in labels.values()) else len(labels)
    weights = nnunet_weights(layers, len(channels), outputs)
    dataset = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": labels,
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
    }
    write_json(folder / "plans.json", plan)
    write_json(folder / "dataset.json", dataset)
    content = {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "nesterov": True}]},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5), np.float32(0.25)], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": plan,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **checkpoint,
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return weights


def nnunet_weights(layers: dict[str, Any], channels: int, outputs: int) -> dict[str, Tensor]:
    """Random weights by the names of nnU-Net's files, in the order of its axes."""
    weights: dict[str, Tensor] = {}
    widths, kernels, strides = (
        layers[name] for name in ("features_per_stage", "kernel_sizes", "strides")
    )

    def conv(name: str, enter: int, leave: int, kernel: Any, bias: bool = True) -> None:
        own = {"conv.weight": torch.randn(leave, enter, *kernel)}
        own |= {"conv.bias": torch.randn(leave)} if bias else {}
        own |= {"norm.weight": 0.5 + torch.rand(leave), "norm.bias": torch.randn(leave)}
        for part, tensor in own.items():
            weights[f"{name}.{part}"] = tensor
            index = {"conv": 0, "norm": 1}[part.partition(".")[0]]
            weights[f"{name}.all_modules.{index}.{part.partition('.')[2]}"] = tensor

    def convs(name: str, enter: int, leave: int, kernel: Any, count: int) -> None:
        for number in range(count):
            conv(f"{name}.convs.{number}", leave if number else enter, leave, kernel)

    enter = channels
    residual = layers.get("n_blocks_per_stage")
    if residual:
        convs("encoder.stem", enter, widths[0], kernels[0], 1)
        enter = widths[0]
    for level, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        stage = f"encoder.stages.{level}"
        if not residual:
            convs(f"{stage}.0", enter, width, kernel, layers["n_conv_per_stage"][level])
        for number in range(residual[level] if residual else 0):
            block = f"{stage}.blocks.{number}"
            conv(f"{block}.conv1", width if number else enter, width, kernel)
            conv(f"{block}.conv2", width, width, kernel)
            if not number and enter != width:
                place = int(max(strides[level]) > 1)  # behind the pooling
                conv(f"{block}.skip.{place}", enter, width, (1, 1, 1), bias=False)
        enter = width
    for name in list(weights):
        weights[f"decoder.{name}"] = weights[name]
    for step in range(len(widths) - 1):
        below, width, stride = widths[-1 - step], widths[-2 - step], strides[-1 - step]
        weights[f"decoder.transpconvs.{step}.weight"] = torch.randn(below, width, *stride)
        weights[f"decoder.transpconvs.{step}.bias"] = torch.randn(width)
        count = layers["n_conv_per_stage_decoder"][step]
        convs(f"decoder.stages.{step}", 2 * width, width, kernels[-2 - step], count)
        weights[f"decoder.seg_layers.{step}.weight"] = torch.randn(outputs, width, 1, 1, 1)
        weights[f"decoder.seg_layers.{step}.bias"] = torch.randn(outputs)
    return weights


def nnunet_outputs(weights: dict[str, Tensor], layers: dict[str, Any], image: Tensor) -> Tensor:
    """What nnU-Net computes of an image (B, C, z, y, x), written down from its documentation."""

    def conv(name: str, x: Tensor, stride: Any = 1, activated: bool = True) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        padding = [side // 2 for side in kernel.shape[2:]]
        x = F.conv3d(x, kernel, weights.get(f"{name}.conv.bias"), stride, padding)
        scale, shift = (weights[f"{name}.norm.{part}"] for part in ("weight", "bias"))
        x = F.instance_norm(x, weight=scale, bias=shift)
        return F.leaky_relu(x, 0.01) if activated else x

    def convs(name: str, x: Tensor, stride: Any = 1) -> Tensor:
        number = 0
        while f"{name}.convs.{number}.conv.weight" in weights:
            x = conv(f"{name}.convs.{number}", x, 1 if number else stride)
            number += 1
        return x

    x, skips, residual = image, [], "encoder.stem.convs.0.conv.weight" in weights
    if residual:
        x = convs("encoder.stem", x)
    for level, stride in enumerate(layers["strides"]):
        stage = f"encoder.stages.{level}"
        if not residual:
            x = convs(f"{stage}.0", x, stride)
        for number in range(layers["n_blocks_per_stage"][level] if residual else 0):
            block, step = f"{stage}.blocks.{number}", 1 if number else stride
            skip = x if number or max(stride) == 1 else F.avg_pool3d(x, stride, stride)
            for place in (0, 1):
                if f"{block}.skip.{place}.conv.weight" in weights:
                    skip = conv(f"{block}.skip.{place}", skip, activated=False)
            inner = conv(f"{block}.conv2", conv(f"{block}.conv1", x, step), activated=False)
            x = F.leaky_relu(inner + skip, 0.01)
        skips.append(x)
    for step, skip in enumerate(reversed(skips[:-1])):
        stride = layers["strides"][-1 - step]
        up = (weights[f"decoder.transpconvs.{step}.{part}"] for part in ("weight", "bias"))
        x = F.conv_transpose3d(x, *up, stride=stride)
        x = convs(f"decoder.stages.{step}", torch.cat([x, skip], dim=1))
    last = (weights[f"decoder.seg_layers.{len(skips) - 2}.{part}"] for part in ("weight", "bias"))
    return F.conv3d(x, *last)


def randomise(network: torch.nn.Module) -> None:
    """Give every weight and every running statistic a value of its own."""
    with torch.no_grad():
        for name, one in network.state_dict().items():
            if one.is_floating_point():
                one.copy_(torch.randn(one.shape) * 0.1 + (1 if "running_var" in name else 0))


def write_json(file: Path, content: Any) -> None:
    """Write content as JSON."""
    file.write_text(json.dumps(content))


def changed(plan: dict[str, Any], **layers: Any) -> dict[str, Any]:
    """Return a copy of plans with other arguments of the network."""
    copied = deepcopy(plan)
    fullres = copied["configurations"]["3d_fullres"]
    fullres["architecture"]["arch_kwargs"].update(layers)
    return copied
