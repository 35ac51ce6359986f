"""Weights and optimisers in the form whose kernels are fastest; results change by rounding only."""

import platform

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD, Adam, AdamW, Optimizer

FUSED = (Adam, AdamW, SGD)  # optimisers that update all weights in one kernel on CUDA
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the axes of a tensor


def on_x86() -> bool:
    """Return whether oneDNN's kernels for x86 run here; others were not measured."""
    return platform.machine().lower() in ("x86_64", "amd64")


def arrange_weights(module: nn.Module, device: str, precision: str) -> None:
    """Put the weights of convolutions in the order in which they train fastest, values unchanged.

    On a GPU that is channels-last: tensor cores read no other order, so cuDNN would turn every
    activation twice. On an x86 processor in fp32 it is for 3D ones: a step of the tiny SegResNet
    on 2 x 48^3 voxels takes 0.51 s of one core with AVX2 instead of 0.84 s, of the tiny DynUNet
    0.40 s instead of 0.60 s. 2D convolutions gain nothing there, and bf16 was not measured.

    Args:
        module: holds the weights.
        device: `cuda`, `cpu` or another kind, of the training.
        precision: of Lightning's trainer, as `32-true` or `bf16-mixed`.
    """
    volumes_alone = device == "cpu" and on_x86() and precision.startswith("32")
    axes = set(CHANNELS_LAST) if device == "cuda" else {5} if volumes_alone else set()
    for layer in module.modules():
        if isinstance(layer, _ConvNd) and layer.weight.ndim in axes:
            memory_format = CHANNELS_LAST[layer.weight.ndim]
            layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)


def fuse(optimizer: Optimizer, device: str = "cuda") -> None:
    """Let an optimiser update all weights in one kernel, if all are on a GPU and it can.

    What was chosen in its settings stays. The state of a training that is resumed is put where the
    weights are and in their order, as a kernel needs it.

    Args:
        optimizer: the optimiser, before its first step or with a restored state.
        device: kind of device whose kernels are used.
    """
    chosen = any(optimizer.defaults.get(name) for name in ("foreach", "capturable"))
    if not isinstance(optimizer, FUSED) or optimizer.defaults.get("fused") is not None or chosen:
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    fits = all(one.device.type == device and one.is_floating_point() for one in weights)
    for group in optimizer.param_groups:
        group["fused"] = True if fits else None
    for weight in weights:
        state = optimizer.state.get(weight, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
            elif isinstance(value, Tensor):  # the number of steps
                state[name] = value.to(weight.device)
