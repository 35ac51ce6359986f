"""What a training needs to go on after a stop as if there had been none.

Lightning keeps weights, optimisers, schedulers and counts in a checkpoint. What it does not keep,
or keeps for an unmoved folder alone, is here.
"""

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_modules.contracts.protocols import Monitored

STOPS = "gliofuse_stops"  # whether a training had decided to end, in checkpoints it can go on from


def checkpoints(folder: Path, model: Monitored) -> list[Callback]:
    """Return what writes ``best.ckpt``, the weights alone, and ``last.ckpt``, to go on from.

    Both at an epoch's end, where a training goes on. Two of them: ``save_last`` of the first would
    write only when there is a new best, and epochs since would be trained twice.

    Args:
        folder: of the checkpoints.
        model: says by its ``monitor`` and ``monitor_mode`` what is best.
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
        save_weights_only=True,  # it is used, never trained on
        **common,
    )
    return [best, MovableCheckpoint(filename="last", **common)]


class MovableCheckpoint(ModelCheckpoint):
    """Keep one checkpoint; what is known of it goes along when the run's folder is moved.

    Lightning forgets the best score then, and the first epoch after would replace a better one.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score, and that its checkpoint lies in the present folder."""
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
    """End a training that had decided to end, and one that has made its steps.

    A decision of early stopping or of ``max_time``, made in an epoch, is kept with that epoch's
    checkpoint. A limit of steps is kept here: with one of its own Lightning ends a finished epoch
    again when a training goes on.

    Args:
        max_steps: of all optimisers, after which the training ends with a validation; None: no
            limit.
    """

    def __init__(self, max_steps: int | None = None) -> None:
        self.max_steps = max_steps
        self.ended = False

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the decision."""
        checkpoint[STOPS] = bool(trainer.should_stop)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take it over."""
        self.ended = bool(checkpoint.get(STOPS, False))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Decide again, once Lightning has forgotten."""
        if self.ended:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """End with the last of the steps."""
        if self.max_steps is not None and trainer.global_step >= self.max_steps:
            trainer.should_stop = True
            if trainer.check_val_every_n_epoch:
                trainer.check_val_every_n_epoch = 1  # this last epoch has one in any case
