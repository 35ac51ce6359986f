"""Inference on whole volumes: arithmetic, sliding windows, flips."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, reduce
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name its own documentation uses
from torch.overrides import TorchFunctionMode

from errors import InputError
from lightning_modules.optimisation.kernels import on_x86

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Execution:
    """Arithmetic and memory layout of inference, as the manifest records them.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: precision of convolutions and matrix products; all else is fp32.
        channels_last: whether activations keep the channels of a voxel side by side, 3D ones on a
            processor, all on a GPU.
        reason: why this precision was chosen.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    reason: str = "default"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Apply this precision to the networks run inside, overriding the trainer's autocast."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(
                torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")
            )
            if self.channels_last and self.device == "cpu":
                stack.enter_context(ChannelsLastInstanceNorm())
            yield

    def arrange(self, image: Tensor) -> Tensor:
        """Return an image (B, C, *S) in this memory layout, values unchanged."""
        if self.channels_last and image.ndim == 5:
            return image.contiguous(memory_format=torch.channels_last_3d)
        if self.channels_last and image.ndim == 4 and self.device == "cuda":
            return image.contiguous(memory_format=torch.channels_last)
        return image.contiguous()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        return asdict(self)


class ChannelsLastInstanceNorm(TorchFunctionMode):
    """Compute instance norm as group norm with one channel a group: the same formula.

    On the CPU, instance norm first copies its input to the contiguous layout, and every
    convolution after it copies back; group norm has a channels-last kernel. That is a third of the
    time of a ``base`` DynUNet in bf16.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace instance norm without running statistics; call everything else unchanged."""
        kwargs = kwargs or {}
        if (
            func is F.instance_norm
            and kwargs.get("running_mean") is None
            and args[0].shape[2:].numel() > 1  # one voxel: let instance norm raise its own error
        ):
            weight, bias = kwargs.get("weight"), kwargs.get("bias")
            return F.group_norm(args[0], args[0].shape[1], weight, bias, kwargs.get("eps", 1e-5))
        return func(*args, **kwargs)


def choose_execution(
    device: torch.device | str, precision: Literal["auto", "fp32", "bf16"] = "auto"
) -> Execution:
    """Choose precision and memory layout from the processor's instruction sets, not by timing.

    So the same machine always gives the same masks, which resuming needs.

    Args:
        device: where the network is.
        precision: ``auto`` takes bf16 where the processor multiplies it natively.

    Raises:
        InputError: if the precision is not one of the three.
    """
    kind = torch.device(device)
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"precision is {precision!r}: expected one of auto, fp32, bf16.")
    native, reason = False, f"no native bf16 known on {kind.type}"
    if kind.type == "cuda":
        capability = torch.cuda.get_device_capability(kind)
        native = capability >= (8, 0)
        reason = "CUDA capability {}.{}".format(*capability)
    elif kind.type == "cpu":
        flags = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in processor_flags()]
        native = bool(flags)
        reason = f"processor has {flags[0]}" if flags else "processor without avx512_bf16"
    if precision != "auto":
        reason = f"requested, {reason}"
    bf16 = precision == "bf16" or (precision == "auto" and native)
    # oneDNN and cuDNN's tensor cores compute channels-last whatever they are given; elsewhere the
    # layout was not measured.
    channels_last = kind.type == "cuda" or (kind.type == "cpu" and on_x86())
    return Execution(kind.type, "bf16" if bf16 else "fp32", channels_last, reason)


@cache
def processor_flags() -> frozenset[str]:
    """Return the instruction sets of the first processor; empty outside of Linux."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
    return frozenset()


# Voxels and windows of a forward pass. PyTorch convolves one small image in fp32 by a kernel of its
# own, not oneDNN's: a window of 48^3 took the tiny DynUNet 0.43 s on one core, two 0.07 s each.
TOGETHER, MOST_WINDOWS = 2 * 64**3, 8


def windows_together(patch_size: Sequence[int]) -> int:
    """Return how many windows of a patch size share a forward pass."""
    return max(1, min(TOGETHER // math.prod(patch_size), MOST_WINDOWS))


class SlidingWindow:
    """Apply a network to a whole volume window by window.

    Sigmoid inside each window, probabilities blended in fp32: blending logits gives another mask.
    An axis shorter than the patch is padded and cropped back.

    Args:
        patch_size: voxels of a window; the patch size of training, on which instance norm and
            pooled attention depend.
        overlap: share of a window that its neighbour covers again.
        mode: weight of a window's voxels: Gaussian, sigma an eighth of the window, or constant.
        tta: ``flips`` averages the probabilities over all flips of the spatial axes, 8 in 3D.
        execution: precision and memory layout; None takes that of the image's device.
        fill: value of the padding: the background of the prepared images.
        batch_size: windows a forward pass; None: several where they are small.
        activation: applied to the network's output before blending.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        overlap: float = 0.5,
        mode: Literal["gaussian", "constant"] = "gaussian",
        tta: Literal["none", "flips"] = "none",
        execution: Execution | None = None,
        fill: float = 0.0,
        batch_size: int | None = None,
        activation: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        self.patch_size = tuple(patch_size)
        self.overlap = overlap
        self.mode = mode
        self.tta = tta
        self.execution = execution
        self.fill = fill
        self.batch_size = batch_size
        self.activation = activation

    def __call__(self, network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Return probabilities (B, R, *S), or other outputs of the activation, in fp32.

        Args:
            network: from windows (N, M, *patch) to logits (N, R, *patch), in eval mode.
            image: (B, M, *S).

        Raises:
            ValueError: if the patch size has another number of axes than the image.
        """
        execution = self.execution or choose_execution(image.device)
        flips = self._flips()
        together = self.batch_size or windows_together(self.patch_size)
        none_alone = (
            self.batch_size is None
            and together > 1
            and (execution.device, execution.precision) == ("cpu", "fp32")
        )

        def activated(window: Tensor) -> Tensor:
            windows = len(window)
            if none_alone and windows == 1:  # twice, which is faster: see TOGETHER
                window = window.expand(2, *window.shape[1:])
            parts = (
                self.activation(network(execution.arrange(window.flip(axes))).float()).flip(axes)
                for axes in flips
            )
            return reduce(torch.add, parts).div_(len(flips))[:windows].contiguous()

        with execution.active():
            blended: Tensor = sliding_window_inference(  # type: ignore[assignment]
                image.float(),
                self.patch_size,
                together,
                activated,
                overlap=self.overlap,
                mode=self.mode,
                cval=self.fill,
            )
        return blended

    def _flips(self) -> list[tuple[int, ...]]:
        """Return the sets of axes to flip, the empty one first."""
        if self.tta == "none":
            return [()]
        axes = range(2, 2 + len(self.patch_size))
        sets = chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))
        return list(sets)
