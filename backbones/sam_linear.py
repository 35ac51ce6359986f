"""Linear layers by the quickest kernel of the processor."""

import threading

import torch
from torch import nn
from torch.nn import functional

_THREAD = threading.local()


def linear(layer: nn.Linear, tokens: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """Return `layer(tokens)`, through a GELU where asked; (..., in) to (..., out).

    Without gradients on a processor by oneDNN, which PyTorch else leaves to MKL in float32: a
    tenth faster on AMD's processors, and the GELU costs no pass of its own.
    """
    dtype = tokens.dtype
    if tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    if _has_kernel(tokens, dtype):
        return torch.ops.mkldnn._linear_pointwise(
            tokens.to(dtype),
            _as(layer.weight, dtype),
            layer.bias.to(dtype),
            "gelu" if gelu else "none",
            [],
            "none",
        )
    projected = layer(tokens)
    return functional.gelu(projected) if gelu else projected


def _as(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a weight in another precision, in memory that the next of its shape overwrites.

    New memory for every weight costs two thirds of the cast, a twentieth of a bfloat16 encoder.
    """
    if weight.dtype == dtype:
        return weight
    buffers = _THREAD.__dict__.setdefault("buffers", {})
    key = (weight.shape, dtype)
    if key not in buffers:
        with torch.inference_mode(False):  # else it could not be written outside of that mode
            buffers[key] = torch.empty_like(weight, dtype=dtype, requires_grad=False)
    return buffers[key].copy_(weight)


def _has_kernel(tokens: torch.Tensor, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN can be asked; it knows no gradient, no meta device and no tracing."""
    if torch.is_grad_enabled() or tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
