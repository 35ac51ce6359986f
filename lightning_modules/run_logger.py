"""The logger of a run: Weights & Biases, with every epoch once, also when it is trained twice."""

from collections.abc import Mapping
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class RunLogger(WandbLogger):
    """Lightning's logger, with one row an epoch that resume does not repeat.

    A training that is killed goes on from its last checkpoint, so what was logged since would
    stand in the curves twice: metrics wait here until the checkpoint of their epoch is written.
    W&B's own step is that of the trainer, so the folders of a resumed run follow each other.

    Args:
        *arguments: of WandbLogger.
        **settings: of WandbLogger, and what it passes to ``wandb.init``.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._wandb_init.pop("anonymous", None)  # wandb only warns about it since 0.31
        self.waiting: dict[int | None, dict[str, float]] = {}  # by step
        self.settled = -1  # step of the last checkpoint

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics until their checkpoint; the epoch's training loss comes after it."""
        self.waiting.setdefault(step, {}).update(metrics)
        if step is not None and step <= self.settled:
            self.flush()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember that resume would not repeat what waits; ``best`` says nothing about that."""
        super().after_save_checkpoint(checkpoint_callback)
        if checkpoint_callback.filename == "last":
            self.settled = max([self.settled, *(step for step in self.waiting if step is not None)])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Hand over what no checkpoint follows, unless the training was broken off."""
        if status == "success":
            self.flush()
        super().finalize(status)

    def flush(self) -> None:
        """Hand everything over that waits, a row a step."""
        run = self.experiment
        for step, metrics in self.waiting.items():
            if step is None:
                run.log(metrics)
            else:  # W&B drops a row whose step lies behind: someone else may have logged meanwhile
                row = {**metrics, "trainer/global_step": step}
                run.log(row, step=max(step, run.step), commit=True)
        self.waiting.clear()


def wandb_run(trainer: L.Trainer) -> Any:
    """Return the W&B run behind the trainer's loggers on rank zero, or None."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                return logger.experiment
    return None
