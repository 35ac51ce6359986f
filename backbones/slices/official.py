"""Officially published weight files: their names and layouts become a network's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from errors import InputError


def as_it_is(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight of a file that has the network's own layout."""
    return weight


@dataclass(frozen=True)
class Source:
    """The origin of one of a network's weights in a published file.

    Attributes:
        names: the file's names that make it up.
        convert: from the file's tensors, in that order, to the network's layout; it raises what
            torch raises where their shapes do not allow it.
    """

    names: tuple[str, ...]
    convert: Callable[..., torch.Tensor] = as_it_is


def load_official(
    network: nn.Module, sources: Mapping[str, Source], state: Mapping[str, object], *, file: str
) -> list[str]:
    """Copy a published file's weights into a network; it changes only if everything fits.

    Args:
        network: receives the weights.
        sources: the origin of each of its weights that the file should hold.
        state: the file's tensors by its own names; names beyond those in `sources` are ignored.
        file: the file's published name and the size it is for, used in errors.

    Returns:
        The expected names that the file lacks, in the network's order.

    Raises:
        InputError: a tensor of another shape, or not one expected name.
    """
    own = dict(network.named_parameters())
    title = type(network).__name__
    fitting: dict[str, torch.Tensor] = {}
    absent: dict[str, None] = {}  # a set that keeps its order
    for name, source in sources.items():
        tensors = [state.get(official) for official in source.names]
        found = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]
        if len(found) < len(tensors):
            absent.update(
                dict.fromkeys(official for official in source.names if official not in state)
            )
            continue
        try:
            value = source.convert(*found)
        except (RuntimeError, IndexError):  # other axes or lengths
            value = None
        if value is None or value.shape != own[name].shape:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
            raise InputError(
                f"{source.names[0]} of the weight file has the shape {shapes}, which does not fit "
                f"this {title}: give the official {file}, or leave the pretrained weights out."
            )
        fitting[name] = value
    if not fitting:
        raise InputError(
            f"The weight file holds none of the {len(sources)} weights that {title} looks for, "
            f"such as {next(iter(absent))}: give the official {file}, or leave the pretrained "
            "weights out."
        )
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)
    return list(absent)
