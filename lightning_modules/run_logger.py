"""The logger of a run: Weights & Biases, with every epoch once, also when it is trained twice."""

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
    """Let W&B fail with a note: what is computed is never lost to it.

    Args:
        what: what W&B did not do.
    """
    try:
        yield
    except Exception as error:
        print(f"Note: W&B {what} ({reason(error)}); the run's folder has it.", flush=True)


def reason(error: Exception) -> str:
    """Return the first line of what an exception says."""
    return next(iter(str(error).strip().splitlines()), repr(error))


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

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, begun at the first use: offline where the server does not answer."""
        if self._experiment is None and not self._offline:
            import wandb

            try:
                return super().experiment
            except Exception as error:  # a key, but no network: wandb.init gives up after a while
                print(
                    f"Note: W&B did not begin this run online ({reason(error)}): it is logged "
                    "offline, and its end says how to sync it.",
                    flush=True,
                )
                wandb.teardown()  # its service holds on to the id of the run that failed
                self._offline = True
                self._wandb_init["mode"] = os.environ["WANDB_MODE"] = "offline"
        return super().experiment

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
        """Hand everything over that waits, a row a step; what W&B does not take is left out."""
        with harmless("did not take an epoch"):
            run = self.experiment
            for step, metrics in self.waiting.items():
                if step is None:
                    run.log(metrics)
                else:  # W&B drops a row whose step lies behind: someone else may have logged since
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
