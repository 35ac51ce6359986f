"""Callbacks that make a resumed training end like an uninterrupted one.

Lightning stores weights, optimisers, schedulers and counts in a checkpoint. The rest, and state
that Lightning loses when the folder is moved, is stored here.
"""

import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_modules.contracts.protocols import Monitored

STOPS = "gliofuse_stops"  # key in checkpoints: whether the training had decided to end
SECONDS = "gliofuse_seconds"  # key in checkpoints: how long was trained, over all sessions


def checkpoints(folder: Path, model: Monitored) -> list[Callback]:
    """Return the callbacks that write ``best.ckpt`` (weights only) and ``last.ckpt`` (to resume).

    Both write at the end of an epoch. One callback with ``save_last`` would write ``last.ckpt``
    only after a new best, and the epochs since would be trained again.

    Args:
        folder: folder of the checkpoints.
        model: its ``monitor`` and ``monitor_mode`` define the best epoch.
    """
    common: dict[str, Any] = {
        "dirpath": folder,
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    best = MovableCheckpoint(
        filename="best",
        monitor=model.monitor,
        mode=model.monitor_mode,
        save_weights_only=True,  # used for inference, never resumed
        **common,
    )
    return [best, MovableCheckpoint(filename="last", **common)]


class MovableCheckpoint(ModelCheckpoint):
    """Keep one checkpoint and its best score, even when the run's folder is moved.

    Lightning would lose the best score, and the next epoch would replace a better checkpoint.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, with its checkpoint in the current folder."""
        here = str(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}")
        score = next(iter(state_dict.get("best_k_models", {}).values()), None)
        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": here if state_dict["best_model_path"] else "",
                "kth_best_model_path": "" if score is None else here,
                "best_k_models": {} if score is None else {here: score},
            }
        )


class Ending(Callback):
    """End a training at its limit of steps, or as early stopping decided before a resume.

    A decision of early stopping or ``max_time`` is stored in the checkpoint of its epoch. The limit
    of steps is applied here because Lightning's own would end a finished epoch again on resume.

    Args:
        max_steps: steps over all optimisers, after which training ends with a validation; None:
            no limit.

    Attributes:
        before: seconds of the sessions before this one.
    """

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = max_steps
        self.ended = False
        self.before = 0.0
        self.began = time.monotonic()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the decision."""
        checkpoint[STOPS] = bool(trainer.should_stop)
        checkpoint[SECONDS] = self.before + time.monotonic() - self.began

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the decision."""
        self.ended = bool(checkpoint.get(STOPS, False))
        self.before = float(checkpoint.get(SECONDS, 0.0))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the trainer again if the decision was made before the resume."""
        if self.ended:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """End the training at its last step."""
        if self.max_steps is not None and trainer.global_step >= self.max_steps:
            trainer.should_stop = True
            if trainer.check_val_every_n_epoch:
                trainer.check_val_every_n_epoch = 1  # so that this last epoch is validated
