"""Callback that times the steps of a training and the waits for their batches."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
import torch
from lightning.pytorch.callbacks import Callback


class StepTimes(Callback):
    """Write the seconds of every step, and of the wait for its batch, when a training ends.

    Args:
        out: JSON file: ``steps``, ``waits`` (seconds, one a batch), ``peak_gb`` of the GPU, and
            ``loaders``, the number of loader processes.
    """

    def __init__(self, out: str) -> None:
        self.out = Path(out)
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.began = 0.0
        self.ended: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave one patient to the validation, which is not timed."""
        trainer.limit_val_batches = 1

    def on_train_batch_start(self, *_: Any) -> None:
        """Note how long the batch took to arrive since the last step ended."""
        self.began = self._now()
        self.waits.append(0.0 if self.ended is None else self.began - self.ended)

    def on_train_batch_end(self, *_: Any) -> None:
        """Note how long the step took."""
        self.ended = self._now()
        self.steps.append(self.ended - self.began)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what was found."""
        cuda = torch.cuda.is_available()
        loader: Any = trainer.train_dataloader
        content = {
            "steps": self.steps,
            "waits": self.waits,
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
            "loaders": loader.num_workers,
        }
        self.out.write_text(json.dumps(content))

    @staticmethod
    def _now() -> float:
        """Return the time when all that was asked of the GPU is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
