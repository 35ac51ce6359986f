"""On-disk cache of a frozen encoder's embeddings of unaugmented slices."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from files import write_atomically
from lightning_modules.inference import Execution
from progress import Bar


def numerics_of(execution: Execution) -> tuple[str, ...]:
    """Return the settings of machine and precision that the rounding of an embedding depends on.

    A processor splits sums by its threads and instruction set. If these shared one cache, a
    training would depend on which of them filled it, and could not be repeated bit for bit.

    Args:
        execution: precision and memory layout of the encoder.
    """
    if execution.device == "cuda":
        place = [torch.cuda.get_device_name()]
    else:
        place = [torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
    return (execution.device, execution.precision, *place, f"torch {torch.__version__}")


class EmbeddingStore:
    """Cache of embeddings of unaugmented slices in half precision, a file a slice.

    The slices that share a batch of the encoder affect the rounding, so slices are always computed
    in the same groups: a resumed training gets the same result.

    Args:
        folder: folder, named after everything but the slice that affects an embedding.
        group: slices in a batch of the encoder.
    """

    def __init__(self, folder: Path, group: int = 8) -> None:
        self.folder = folder
        self.group = group

    def fill(
        self,
        keys: Sequence[str],
        encode: Callable[[list[int]], Tensor],
        *,
        rank: int = 0,
        world: int = 1,
        progress: str | None = None,
    ) -> int:
        """Compute the missing embeddings; return their number.

        Args:
            keys: names of the slices.
            encode: maps positions in ``keys`` to embeddings (n, C, h, w).
            rank: rank of this process, which computes every world-th group.
            world: number of processes.
            progress: text of a progress bar; None shows none.
        """
        order = sorted(range(len(keys)), key=lambda index: keys[index])
        groups = [order[i : i + self.group] for i in range(0, len(order), self.group)]
        missing = [
            members
            for members in groups[rank::world]
            if not all(self._file(keys[index]).is_file() for index in members)
        ]
        done = 0
        shown = progress is not None
        with Bar(
            missing, desc=progress or "", total=len(missing), disable=not shown, delay=1
        ) as bar:
            for members in bar:
                halves = encode(members).to(torch.float16).cpu().numpy()
                for index, values in zip(members, halves, strict=True):
                    self._write(keys[index], values)
                done += len(members)
        return done

    def read(self, keys: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Return embeddings (n, C, h, w) in fp32."""
        values = torch.from_numpy(np.stack([np.load(self._file(key)) for key in keys]))
        return values.to(device).float()

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"

    def _write(self, key: str, values: np.ndarray) -> None:
        file = self._file(key)
        write_atomically(file, lambda place: np.save(place, values))
