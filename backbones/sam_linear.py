"""Linear layers by the quickest kernel of the processor."""

import threading
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_THREAD = threading.local()


def linear(layer: nn.Linear, tokens: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """Return `layer(tokens)`, through a GELU where asked; (..., in) to (..., out).

    Where the layer is frozen or no gradient asked, on a processor by oneDNN, which PyTorch else
    leaves to MKL in float32: a tenth faster on AMD's processors, and without gradients the GELU
    costs no pass of its own.
    """
    dtype = tokens.dtype
    if tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    if _has_kernel(tokens, dtype):
        if not torch.is_grad_enabled():
            return _kernel(tokens.to(dtype), layer.weight, layer.bias, "gelu" if gelu else "none")
        if not layer.weight.requires_grad and not layer.bias.requires_grad:
            projected = _FrozenLinear.apply(tokens.to(dtype), layer.weight, layer.bias)
            return functional.gelu(projected) if gelu else projected
    projected = layer(tokens)
    return functional.gelu(projected) if gelu else projected


class _FrozenLinear(torch.autograd.Function):
    """A layer whose weights have no gradient: it keeps neither its input nor a cast of them."""

    @staticmethod
    def forward(
        ctx: Any, tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Return (..., out) of tokens (..., in)."""
        ctx.save_for_backward(weight)
        return _kernel(tokens, weight, bias, "none")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of the tokens."""
        (weight,) = ctx.saved_tensors
        return gradient @ _as(weight, gradient.dtype), None, None


def _kernel(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, after: str
) -> torch.Tensor:
    projected: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        tokens, _as(weight, tokens.dtype), bias.to(tokens.dtype), after, [], "none"
    )
    return projected


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
    """Tell whether oneDNN can be asked; it knows no other device and no tracing."""
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
