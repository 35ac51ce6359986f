"""Logger for Weights & Biases that logs every epoch once, even one trained again on resume."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Turn an error of W&B into a printed note, so that no result is lost to it.

    Args:
        what: what failed, such as ``did not take an epoch``.
    """
    try:
        yield
    except Exception as error:
        print(f"Note: W&B {what} ({reason(error)}); the run's folder has it.", flush=True)


def reason(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return next(iter(str(error).strip().splitlines()), repr(error))


class RunLogger(WandbLogger):
    """Lightning's W&B logger with one row an epoch, which resuming does not repeat.

    A killed training resumes from its last checkpoint, so rows logged after it would appear twice.
    Metrics therefore wait here until the checkpoint of their epoch is written. W&B's step is the
    trainer's, so the folders of a resumed run follow each other.

    Args:
        *arguments: arguments of WandbLogger.
        **settings: arguments of WandbLogger, and those it passes to ``wandb.init``.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._wandb_init.pop("anonymous", None)  # wandb only warns about it since 0.31
        if folder := self._wandb_init["dir"]:  # W&B's service has a working directory of its own
            self._wandb_init["dir"] = os.path.abspath(folder)
        self.waiting: dict[int | None, dict[str, float]] = {}  # by step
        self.settled = -1  # step of the last checkpoint

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started on first use; offline where the server does not answer."""
        if self._experiment is None and not self._offline:
            import wandb

            try:
                return super().experiment
            except Exception as error:  # a key, but no network: wandb.init gives up after a while
                print(
                    f"Note: W&B did not begin this run online ({reason(error)}): it is logged "
                    "offline; the summary shows how to sync it.",
                    flush=True,
                )
                wandb.teardown()  # its service holds on to the id of the run that failed
                self._offline = True
                self._wandb_init["mode"] = os.environ["WANDB_MODE"] = "offline"
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hold metrics until their checkpoint; the epoch's training loss arrives after it."""
        self.waiting.setdefault(step, {}).update(metrics)
        if step is not None and step <= self.settled:
            self.flush()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Mark held metrics as safe to log once ``last.ckpt``, not ``best.ckpt``, is written."""
        super().after_save_checkpoint(checkpoint_callback)
        if checkpoint_callback.filename == "last":
            self.settled = max([self.settled, *(step for step in self.waiting if step is not None)])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the remaining metrics, unless the training was interrupted."""
        if status == "success":
            self.flush()
        super().finalize(status)

    def flush(self) -> None:
        """Log all held metrics, a row a step; rows that W&B refuses are left out."""
        with harmless("did not take an epoch"):
            run = self.experiment
            for step, metrics in self.waiting.items():
                if step is None:
                    run.log(metrics)
                else:  # W&B drops a row of an earlier step: other code may have logged since
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
