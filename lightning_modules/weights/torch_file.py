"""Opening PyTorch's files so that no code from them runs."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from errors import InputError

# What PyTorch raises of a file that is no archive or pickle of its own, or half of one.
DAMAGED = (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError)
BEGINNINGS = (b"PK", b"\x80")  # of an archive, and of a pickle as PyTorch wrote it before 1.6


def load_torch_file(
    file: Path, *, kind: str, plain: str, give: str, again: str, allowed: Sequence[Any] = ()
) -> Any:
    """Return the content of a file of tensors and plain types, on the CPU.

    Args:
        file: the file.
        kind: what it is to be, such as "weights".
        plain: what it may hold, for messages.
        give: advice where it holds anything else.
        again: advice where it is damaged.
        allowed: further classes that it may hold, as ``torch.serialization.safe_globals`` has them.

    Raises:
        InputError: when it is damaged, of another kind, or holds other objects.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with file.open("rb") as content:
            pickled = content.read(2).startswith(BEGINNINGS)
        if pickled:
            raise InputError(
                f"{file} holds pickled objects besides {plain}, which could run code when opened: "
                f"{give}."
            ) from error
        problem: Exception = error
    except DAMAGED as error:
        problem = error
    raise unreadable(file, kind, again) from problem


def unreadable(file: Path, kind: str, again: str) -> InputError:
    """Return the error about a damaged file; the arguments are those of `load_torch_file`."""
    return InputError(
        f"{file} cannot be read as {kind}, it is truncated or of another kind: {again}."
    )
