"""`trainer.compile`: a backend of torch.compile, tried on this machine before a training."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from errors import InputError
from studies.settings.trainer import choose_device

INDUCTOR = "inductor"  # PyTorch's own, that `true` stands for
NEEDS = "on a processor a C++ compiler such as g++, on a GPU triton"


def compiler_of(setting: bool | str | None) -> str | None:
    """Return the backend of torch.compile that a setting stands for; None: nothing is compiled."""
    if isinstance(setting, str):
        return setting
    return INDUCTOR if setting else None


def check_compiler(trainer: Mapping[str, Any]) -> None:
    """Refuse a training that is to be compiled where that cannot work.

    Args:
        trainer: settings of the trainer, resolved.

    Raises:
        InputError: when there is no such backend, or it cannot compile a function on this machine.
    """
    backend = trainer.get("compile")
    if backend is None:
        return
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        raise InputError(
            f"trainer.compile is {backend}: expected true, false or a backend of torch.compile "
            f"({', '.join(torch.compiler.list_backends())})."
        )
    fault = _try(backend, choose_device(trainer.get("accelerator") or "auto"))
    if fault:
        raise InputError(
            f"trainer.compile: {backend} cannot compile on this machine ({fault}): install what it "
            f"needs ({NEEDS}), or leave trainer.compile out."
        )


@cache
def _try(backend: str, device: str) -> str:
    """Return why a backend cannot compile a small function; empty where it can."""
    tried = torch.compile(lambda values: values.sin() + 1, backend=backend)
    try:
        tried(torch.zeros(8, device=device))
    except Exception as error:  # each backend has errors of its own
        lines = [line.strip() for line in str(error).partition("\n\nSet TORCH")[0].splitlines()]
        told = [line for line in lines if line and not line.startswith("backend=")]
        return told[0].rstrip(". ") if told else type(error).__name__
    return ""
