"""Linear layers by the quickest kernel of the processor."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

_CASTS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # weight to its state and its cast


def linear(layer: nn.Linear, tokens: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """Return `layer(tokens)`, through a GELU if `gelu`; (..., in) to (..., out).

    Where the layer is frozen or no gradient is wanted, a processor uses oneDNN instead of MKL,
    PyTorch's choice for float32: a tenth faster on AMD's processors, and without gradients the
    GELU costs no pass of its own.
    """
    if type(layer) is not nn.Linear:  # an adapted layer, with weights beside the frozen ones
        projected = layer(tokens)
        return functional.gelu(projected) if gelu else projected
    return project(tokens, layer.weight, layer.bias, gelu)


def project(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool = False
) -> torch.Tensor:
    """Return a linear layer's output, as `linear` does, of a weight (out, in) and a bias (out,)."""
    dtype = tokens.dtype
    if tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    if _has_kernel(tokens, dtype):
        if not torch.is_grad_enabled():
            return _kernel(tokens.to(dtype), weight, bias, "gelu" if gelu else "none")
        if not weight.requires_grad and not bias.requires_grad:
            projected = _FrozenLinear.apply(tokens.to(dtype), weight, bias)
            return functional.gelu(projected) if gelu else projected
    projected = functional.linear(tokens, weight, bias)
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
    """Return a weight in another precision.

    A cast of a frozen weight is kept as long as the weight does not change: casting all of them
    again is a tenth of a bfloat16 encoder's time.
    """
    if weight.dtype == dtype:
        return weight
    if weight.requires_grad or weight.is_inference():
        return weight.detach().to(dtype)
    version, kept = _CASTS.get(weight, (None, None))
    if version != (weight._version, weight.data_ptr(), dtype) or kept is None:
        with torch.inference_mode(False):
            kept = weight.detach().to(dtype)
        _CASTS[weight] = ((weight._version, weight.data_ptr(), dtype), kept)
    return kept


def _has_kernel(tokens: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN can be used: not on other devices, and not while tracing."""
    if tokens.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
