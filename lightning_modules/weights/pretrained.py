"""Files of weights that others published, read without running code from them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from errors import InputError
from lightning_modules.weights.published import check_if_published
from lightning_modules.weights.torch_file import DAMAGED, load_torch_file, unreadable


def read_pretrained(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights: ``.npz`` as the authors of ViT publish them, else PyTorch's.

    The hash of a file with the name of a published one is checked first.

    Raises:
        InputError: when the file is absent, truncated, altered, or holds anything but tensors.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"No weights at {file}: give the path of the file, as model.weights.")
    check_if_published(file)
    again = "copy it again"
    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (*DAMAGED, zipfile.BadZipFile) as error:
            raise unreadable(file, "weights", again) from error
    content: Any = load_torch_file(
        file,
        kind="weights",
        plain="tensors",
        give="use the file its authors published",
        again=again,
    )
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
