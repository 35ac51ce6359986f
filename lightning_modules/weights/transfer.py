"""Transfer of weights from an earlier stage to a network before training."""

import json
from pathlib import Path

import torch
from torch import nn

from errors import InputError
from lightning_modules.weights.checkpoints import build, load_module, read_card


def take_over(network: nn.Module, source: str, size: str) -> str:
    """Copy into a network every weight of the same name from the network of another training.

    Args:
        network: receives the weights.
        source: a checkpoint file; or, in a rehearsal, the module's architecture as JSON.
        size: named size of the network; the source must have the same.

    Returns:
        Which weights were copied and which are new, in words.

    Raises:
        InputError: when the source is untrained, of another size, or shares no weight.
    """
    if source.startswith("{"):
        spec = json.loads(source)
        module = build(spec)
        source = "an untrained rehearsal"
    elif Path(source).suffix == ".ckpt":
        module = load_module(source)
        spec = read_card(source)["model"]
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
    if found != size:
        raise InputError(
            f"model.weights {source} has size {found}, the network {size}: train both at one size."
        )
    giving = getattr(module, "network", nn.Module()).state_dict()
    wanted = network.state_dict()
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
    return copied + (f"; new: {', '.join(new)}" if new else "")
