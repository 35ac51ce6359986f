"""Transfer of weights from an earlier stage to a network before training."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from errors import InputError
from lightning_modules.weights.checkpoints import build, load_module, read_card

Frozen = Literal["nothing", "features", "all"]


def take_over(network: nn.Module, source: str, size: str) -> str:
    """Copy into a network every weight of the same name from the network of another training.

    From the same class this is every weight, output layer included. Of a fusion it is the weights
    of the backbone of the network's own class.

    Args:
        network: receives the weights.
        source: a checkpoint file; or, in a rehearsal, the module's architecture as JSON.
        size: named size of the network; the source must have the same.

    Returns:
        Which weights were copied and which are new, in words.

    Raises:
        InputError: when the source is untrained, of another size, or shares no weight; or when it
            fuses no network of this class, or several.
    """
    if source.startswith("{"):
        spec = json.loads(source)
        module = build(spec)
        source = "an untrained rehearsal"
    elif Path(source).suffix == ".ckpt":
        module, card = load_module(source), read_card(source)
        spec = card["model"]
        source = card.get("foreign", {}).get("name", source)
    elif Path(source).suffix not in (".yaml", ".yml"):
        raise InputError(
            f"model.weights {source} is neither an experiment (.yaml) nor a checkpoint of this "
            "project (.ckpt): give one of the two."
        )
    else:
        raise InputError(
            f"model.weights {source} is an experiment that is not trained yet: only `lightning "
            "fit` trains upstream stages; elsewhere give its checkpoint file."
        )
    found = spec["init_args"].get("size", "tiny")
    if found != size and getattr(network, "has_sizes", True):
        raise InputError(
            f"model.weights {source} has size {found}, the network {size}: train both at one size."
        )
    networks = getattr(module, "networks", None)
    if networks is None:
        giver = getattr(module, "network", nn.Module())
    else:
        giver = _own_kind(network, networks, source)
        source = f"the {type(giver).__name__} in {source}"
    giving, wanted = giver.state_dict(), network.state_dict()
    shared = [name for name in wanted if name in giving]
    other = [name for name in shared if giving[name].shape != wanted[name].shape]
    if not shared or other:
        what = f"its {other[0]} has another shape" if other else "they share no weight"
        raise InputError(
            f"model.weights {source} holds a {type(module).__name__} that does not fit "
            f"{type(network).__name__} ({what}): give the experiment or checkpoint that it builds "
            "upon."
        )
    with torch.no_grad():
        for name in shared:
            wanted[name].copy_(giving[name])
    new = list(dict.fromkeys(name.split(".")[0] for name in wanted if name not in giving))
    count = sum(wanted[name].numel() for name in shared)
    share = count / sum(weight.numel() for weight in wanted.values())
    copied = f"{count:,} weights ({share:.1%}) taken over from {source}"
    return copied + (f"; new: {', '.join(new)}" if new else "; output layer included, none is new")


def freeze(network: Any, frozen: Frozen) -> str:
    """Stop the training of a network's features, or of all of it; return a sentence on it.

    Args:
        network: a network whose ``head(features)`` is its output layer.
        frozen: the part that is not trained.

    Raises:
        InputError: when the network has no output layer of its own.
    """
    network.requires_grad_(requires_grad=False)
    if frozen == "all":
        return "all of them are frozen"
    if not hasattr(network, "head") or not hasattr(network, "feature_channels"):
        raise InputError(
            f"model.frozen is features, but {type(network).__name__} has no output layer apart "
            "from its features: leave model.frozen out."
        )
    shadow = copy.deepcopy(network).eval().requires_grad_()
    logits = shadow.head(torch.zeros(1, network.feature_channels, 2, 2, 2))
    weights = dict(shadow.named_parameters())
    slopes = torch.autograd.grad(logits.sum(), list(weights.values()), allow_unused=True)
    for (name, _), slope in zip(weights.items(), slopes, strict=True):
        network.get_parameter(name).requires_grad_(slope is not None)
    return "all but the output layer are frozen"


def _own_kind(network: nn.Module, networks: Sequence[nn.Module], source: str) -> nn.Module:
    """Return the one of a fusion's networks that has the class of `network`."""
    alike = [one for one in networks if type(one) is type(network)]
    name, held = type(network).__name__, ", ".join(type(one).__name__ for one in networks)
    if len(alike) != 1:
        number = f"{len(alike)} networks" if alike else "no network"
        raise InputError(
            f"model.weights {source} fuses {held}, which is {number} of the class {name}: give "
            f"the checkpoint of one {name}."
        )
    if alike[0].state_dict().keys() != network.state_dict().keys():
        raise InputError(
            f"model.weights {source} holds a {name} with other weights than this one: give the "
            f"checkpoint of a {name} with the same settings."
        )
    return alike[0]
