"""The logger of a run: Weights & Biases, with every epoch once, also when it is trained twice."""

from collections.abc import Mapping
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class RunLogger(WandbLogger):
    """Lightning's logger, which hands an epoch over only when resume would not repeat it.

    A training that is killed goes on from its last checkpoint, so what was logged since would
    stand in the curves twice. Metrics wait here until the checkpoint of their epoch is written.

    Args:
        *arguments: of WandbLogger.
        **settings: of WandbLogger, and what it passes to ``wandb.init``.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._wandb_init.pop("anonymous", None)  # wandb only warns about it since 0.31
        self.waiting: list[tuple[dict[str, float], int | None]] = []
        self.settled = -1  # step of the last checkpoint

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics until their checkpoint; the epoch's training loss comes after it."""
        if step is not None and step <= self.settled:
            super().log_metrics(metrics, step)
        else:
            self.waiting.append((dict(metrics), step))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Hand the epoch over; resume goes on from ``last``, so ``best`` says nothing."""
        super().after_save_checkpoint(checkpoint_callback)
        if checkpoint_callback.filename == "last":
            steps = [step for _, step in self.waiting if step is not None]
            self.settled = max([self.settled, *steps])
            self.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Hand over what no checkpoint follows, unless the training was broken off."""
        if status == "success":
            self.flush()
        super().finalize(status)

    def flush(self) -> None:
        """Hand everything over that waits."""
        for metrics, step in self.waiting:
            super().log_metrics(metrics, step)
        self.waiting.clear()


def wandb_run(trainer: L.Trainer) -> Any:
    """Return the W&B run behind the trainer's loggers on rank zero, or None."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                return logger.experiment
    return None
