"""Published weights: official files, by path or downloaded once; no code from them runs."""

import hashlib
import pickle
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from files import shared_lock
from progress import Bar

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
# The six digits of a name begin the SHA-256 of the file.
SAM_FILES = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
CHUNK = 1 << 20


def weights_folder() -> Path:
    """Return the folder of downloaded weights: PyTorch's own, which ``TORCH_HOME`` moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def official_sam(variant: str, url: str = SAM_URL) -> Path:
    """Return the official checkpoint of a variant, downloaded once on first use.

    An interrupted download is resumed; the file appears only when its hash is right.

    Args:
        variant: vit_b, vit_l or vit_h.
        url: address of the folder of the files.

    Raises:
        InputError: when the file is neither on disk nor reachable, or its hash is wrong.
    """
    name = SAM_FILES[variant]
    file = weights_folder() / name
    if file.is_file():
        return file
    part = file.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with shared_lock(file.with_suffix(".lock")):  # one of several processes downloads
        if file.is_file():
            return file
        try:
            _download(url + name, part)
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"The SAM checkpoint {name} is not at {file} and cannot be downloaded ({reason}): "
                f"fetch {url}{name} elsewhere and put it there, or go on with random weights by "
                "--model.weights random."
            ) from error
        try:
            check_hash(part, name)
        except InputError:
            part.unlink()
            raise
        part.replace(file)
    return file


def check_hash(file: Path, name: str | None = None) -> None:
    """Check a file's SHA-256 against the hexadecimal digits that end its official name.

    Args:
        file: the file.
        name: its official name; None: the file's own name.

    Raises:
        InputError: when its SHA-256 begins differently.
    """
    expected = (name or file.name).rpartition(".")[0].rpartition("_")[2]
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if not found.startswith(expected):
        raise InputError(
            f"{file} is not the official {name or file.name}: its SHA-256 begins with "
            f"{found[:6]} instead of {expected}, so it is truncated or altered; fetch it again."
        )


def read_pretrained(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights: ``.npz`` as the authors of ViT publish them, else PyTorch's.

    The hash of a file with an official SAM name is checked first.

    Raises:
        InputError: when the file is absent, truncated, altered, or holds anything but tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"No weights at {file}: give the path of the file, or leave weights out.")
    if file.name in SAM_FILES.values():
        check_hash(file)
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file} holds pickled objects besides tensors, which could run code when opened: "
            "use the file its authors published."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} cannot be read as weights, it is truncated or of another kind: copy it again."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    tensors = isinstance(content, Mapping) and all(
        isinstance(value, Tensor) for value in content.values()
    )
    if not tensors or not content:
        raise InputError(
            f"{file} holds no named tensors: give a state dict as its authors published it."
        )
    return dict(content)


def _download(url: str, part: Path) -> None:
    """Download ``url`` into ``part``, continuing an earlier download.

    `torch.hub.download_url_to_file` starts a file of 2.6 GB again after every interruption, and
    waits forever for a server that does not answer.
    """
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise
    with answer:
        resumed = answer.status == 206
        left = int(answer.headers.get("Content-Length") or 0)
        total = left + (done if resumed else 0)
        bar = Bar(
            desc=f"downloading {url.rpartition('/')[2]}",
            total=total or None,
            initial=done if resumed else 0,
            in_bytes=True,
        )
        with part.open("ab" if resumed else "wb") as handle, bar:
            while chunk := answer.read(CHUNK):
                handle.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")
