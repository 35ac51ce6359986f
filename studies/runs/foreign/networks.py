"""Foreign networks on disk: recognised by their files, converted once into the cache."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.cases.cache import writing
from datamodules.layouts.brats import patient_of
from errors import InputError
from files import sha256_of, write_atomically
from lightning_modules.weights import monai_bundle, nnunet_results
from lightning_modules.weights.checkpoints import read_card
from lightning_modules.weights.foreign import ForeignNetwork

VERSION = 1  # of the conversion; raised when the same files give another checkpoint
IDS = "trained_on.txt"
KINDS = "a MONAI bundle's folder or model.pt, or a folder of results of nnU-Net v2"
OWN = (".yaml", ".yml", ".ckpt")  # endings of experiments and of this project's checkpoints


@dataclass(frozen=True)
class Converted:
    """A foreign network as a checkpoint of this project.

    Args:
        text: the path as the configuration has it.
        checkpoint: the file in the cache.
        card: its card.
        digest: SHA-256 of the files it was made from and of the ids it was trained on.
        ids: the file with these ids; None: they are unknown.
    """

    text: str
    checkpoint: Path
    card: dict[str, Any]
    digest: str
    ids: Path | None

    @property
    def name(self) -> str:
        """Its name in tables and messages."""
        return str(self.card["foreign"]["name"])


def is_foreign(text: str) -> bool:
    """Whether a backbone or weights are named by another path than this project's files have."""
    return not text.startswith("{") and Path(text).suffix not in OWN


def convert(text: str, cache: Path, given: Path | None = None) -> Converted:
    """Convert a foreign network, or find it in the cache.

    Args:
        text: path of its folder or file.
        cache: the folder of the cache.
        given: file of the ids it was trained on, for a network without one beside it.

    Raises:
        InputError: when the path is no network of a known kind, or one that cannot be used.
    """
    path = Path(text).expanduser()
    read, files, places = _recognise(path)
    ids = next((place / IDS for place in places if (place / IDS).is_file()), given)
    seen = None if ids is None else read_ids(ids)
    parts = [[file.name, sha256_of(file)] for file in files]
    digest = hashlib.sha256(json.dumps([VERSION, parts, seen]).encode()).hexdigest()
    # its name, which the card holds, follows from the folder it is in
    place = hashlib.sha256(f"{digest} {files[0].resolve()}".encode()).hexdigest()[:16]
    checkpoint = cache / "foreign" / f"{place}.ckpt"
    if not checkpoint.is_file():
        network = read(path)
        content = network.to_checkpoint(_exposure(network.name, seen))
        with writing(cache):
            write_atomically(checkpoint, lambda file: torch.save(content, file))
    return Converted(text, checkpoint, read_card(checkpoint), digest, ids)


def _recognise(
    path: Path,
) -> tuple[Callable[[Path], ForeignNetwork], Sequence[Path], Sequence[Path]]:
    """Return the reader of a network's kind, its files, and the folders of a file of ids."""
    if not path.exists():
        raise InputError(
            f"There is no {path}, which model.backbones or model.weights names: give an experiment "
            f"(.yaml), a checkpoint of this project (.ckpt), {KINDS}."
        )
    if nnunet_results.is_results(path):
        results = nnunet_results.find_results(path)
        places = [results.checkpoint.parent, results.folder]
        return nnunet_results.read_results, results.files, places
    parts = ("configs", "models", "model.pt")
    if path.suffix == ".pt" or (path.is_dir() and any((path / one).exists() for one in parts)):
        files = monai_bundle.files_of(path)
        folder = files[0].parent
        places = [folder, folder.parent] if folder.name == "models" else [folder]
        return monai_bundle.read_bundle, files, places
    advice = "unpack it and give its folder" if path.suffix == ".zip" else f"expected {KINDS}"
    if path.suffix == ".ts":
        advice = "expected the bundle's model.pt beside it, as a TorchScript file holds code"
    raise InputError(f"{path} is no network of a known kind: {advice}.")


def read_ids(file: Path) -> list[str]:
    """Return the ids in a file, one a line; empty lines and comments behind # are left out.

    Raises:
        InputError: when the file is absent, no text, without an id, or of another form.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        raise InputError(
            f"The ids of training patients in {file} cannot be read ({reason}): give a text file "
            "with one id a line."
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        name = line.partition("#")[0].strip()
        if re.search(r"[,;\t\"{}\[\]]", name):
            raise InputError(
                f"{file} has {name!r} in line {number}, expected one id a line and nothing else, "
                "such as BraTS2021_00006."
            )
        found += [name] if name else []
    if not found:
        raise InputError(
            f"{file} names no patient: write one id a line, or remove the file where it is not "
            "known what the network was trained on."
        )
    return sorted(set(found))


def _exposure(name: str, seen: Sequence[str] | None) -> dict[str, Any]:
    """Return the entries of a card on the patients that a network was trained on."""
    trained = [
        {"case_id": one, "content_hash": "", "patient_id": patient_of(one)} for one in seen or ()
    ]
    found: dict[str, Any] = {"trained_on": trained, "selected_on": [], "seen": trained}
    return found if seen is not None else {**found, "unknown": [name]}
