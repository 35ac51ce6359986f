"""Reading checkpoints of gliofuse: the card they carry, and the module rebuilt from it.

A checkpoint is self-contained: besides the weights it carries, under the key ``gliofuse``, the
constructor arguments of the module, the names of modalities and regions, the patients it was
trained and selected on, and the settings of its data. Everything stored is tensors and plain types,
so every file is read with ``weights_only=True``: opening a checkpoint runs no code from it.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.plugins.io import TorchCheckpointIO

from errors import InputError
from files import write_atomically
from lightning_modules.weights.torch_file import load_torch_file

KEY = "gliofuse"


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints to a temporary name and rename them: a killed process leaves the old one.

    Lightning uses the system's temporary folder; where that is another file system, it copies over
    the old checkpoint instead of renaming.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a file completely, or leave the old one."""
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint file completely, or leave the old one."""
    content = as_bytes(checkpoint)  # torch.save to a file hides that a disk is full
    write_atomically(path, lambda file: file.write_bytes(content))


def as_bytes(checkpoint: Mapping[str, Any]) -> bytes:
    """Return a checkpoint as the bytes of its file."""
    written = io.BytesIO()
    torch.save(dict(checkpoint), written)
    return written.getvalue()


def remove_leftovers(folder: Path) -> None:
    """Remove partly written checkpoints that killed processes left in a folder."""
    for pattern in (".*.ckpt", ".*.ckpt.*"):  # an earlier version used the second
        for half in folder.glob(pattern):
            half.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is complete: a zip file with its index, which is written last."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (zipfile.BadZipFile, FileNotFoundError):
        return False


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file, weights on the CPU, without running any code from it.

    Raises:
        InputError: when the file is absent, truncated, holds pickled objects, or is not gliofuse's.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"No checkpoint at {file}: give the path of a .ckpt file that a fit wrote."
        )
    checkpoint = load_torch_file(
        file,
        kind="a checkpoint",
        plain="tensors and plain types",
        give="use a checkpoint written by `lightning fit` of this project",
        again="copy it again, or train it again with `lightning fit`",
    )
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise InputError(
            f"{file} is no gliofuse checkpoint (no '{KEY}' entry): give one that `lightning fit` "
            "of this project wrote."
        )
    return checkpoint


def set_arguments(card: dict[str, Any], **arguments: Any) -> None:
    """Change constructor arguments in a card, where it names its module.

    Args:
        card: the ``gliofuse`` entry of a checkpoint.
        **arguments: new values by name, with which the checkpoint alone rebuilds the module.
    """
    model = card["model"]
    if model is not None:
        card["model"] = {**model, "init_args": {**model["init_args"], **arguments}}


def restate(path: Path, **arguments: Any) -> None:
    """Change constructor arguments in a checkpoint file, where they differ; its weights stay.

    Args:
        path: the checkpoint.
        **arguments: plain values, by the names of arguments that no weight depends on.
    """
    checkpoint = read_checkpoint(path)
    card = checkpoint[KEY]
    known = card["model"]["init_args"]
    if any(known.get(name) != value for name, value in arguments.items()):
        set_arguments(card, **arguments)
        set_arguments(card["config"], **arguments)
        write_checkpoint(checkpoint, path)


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the card of the checkpoint at ``path``: its ``gliofuse`` entry."""
    return dict(read_checkpoint(path)[KEY])


def build(spec: Mapping[str, Any]) -> L.LightningModule:
    """Instantiate a module from its class path and arguments, as the command line would.

    Raises:
        InputError: when the class is unknown or does not take the arguments.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--module", type=L.LightningModule)
    try:
        arguments = parser.parse_object({"module": dict(spec)})
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{spec.get('class_path')} cannot be built from what is stored with it ({reason}): "
            "it was written by another version, train it again."
        ) from error
    with own_errors():
        module: L.LightningModule = parser.instantiate(arguments).module
    return module


@contextmanager
def own_errors() -> Iterator[None]:
    """Let an InputError of a constructor through, which jsonargparse wraps in its own errors."""
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from error


def load_module(path: str | Path) -> L.LightningModule:
    """Rebuild the LightningModule of a checkpoint file with its weights, on the CPU.

    Raises:
        InputError: when the file is no usable checkpoint or its weights do not fit its module.
    """
    checkpoint = read_checkpoint(path)
    card = checkpoint[KEY]
    if card.get("model") is None:
        raise InputError(
            f"{path} does not name its module, it was written outside the command line: "
            "train it with `lightning fit --config ...`."
        )
    module = build(card["model"])
    load_weights(module, checkpoint, path)
    return module


def load_weights(module: L.LightningModule, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Load the weights of a checkpoint into its module.

    Args:
        module: as its constructor left it.
        checkpoint: the content of the file.
        path: the file, for messages.

    Raises:
        InputError: when the weights do not fit, as of a network that has changed since.
    """
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise InputError(
            f"The weights in {path} do not fit {type(module).__name__} of this version: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
