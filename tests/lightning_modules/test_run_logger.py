"""A training interrupted at critical moments and resumed: every epoch is logged once."""

import lightning as L  # noqa: N812, the name its own documentation uses
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_modules.run_logger import RunLogger
from tests.wandb_decoder import stored


class Line(L.LightningModule):
    """A module of one weight, whose losses encode the epoch."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        self.log("train/loss", float(self.current_epoch), on_step=False, on_epoch=True)
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/dice/mean", 10.0 + self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Accident(Callback):
    """Interrupt in the second epoch, at a given hook."""

    def __init__(self, hook):
        setattr(self, hook, self.happen)

    def happen(self, trainer, pl_module, *args):
        if trainer.current_epoch == 1:
            raise RuntimeError("broken off")


class Talker(Callback):
    """A user's callback that advances W&B's step."""

    def on_train_epoch_start(self, trainer, pl_module):
        for _ in range(5):
            trainer.logger.experiment.log({"mine": 1.0})


def train(folder, *callbacks, resume=False):
    logger = RunLogger(save_dir=folder, id="abc", offline=True, project="p", resume="allow")
    common = {"dirpath": folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val/dice/mean", mode="max", **common)
    last = ModelCheckpoint(filename="last", **common)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=logger,
        callbacks=[*callbacks, best, last],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    patches = DataLoader(torch.ones(4, 1), batch_size=2)
    path = folder / "last.ckpt" if resume else None
    try:
        trainer.fit(Line(), patches, patches, ckpt_path=path, weights_only=True)
    finally:
        logger.experiment.finish()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end", "on_train_batch_end"])
def test_broken_off_and_resumed_has_every_epoch_once(hook, tmp_path):
    with pytest.raises(RuntimeError, match="broken off"):
        train(tmp_path, Accident(hook))
    (before,) = stored(tmp_path)
    assert [row["epoch"] for row in before.history] == [0]
    train(tmp_path, resume=True)
    first, second = stored(tmp_path)
    rows = [*first.history, *second.history]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["train/loss"] for row in rows] == [0, 1, 2]
    assert [row["val/dice/mean"] for row in rows] == [10, 11, 12]
    assert [row["_step"] for row in rows] == [row["trainer/global_step"] for row in rows]
    assert len({row["_step"] for row in rows}) == 3


def test_a_key_without_a_network_is_offline(tmp_path, monkeypatch, capsys, fresh_wandb):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    unreachable = wandb.Settings(base_url="http://127.0.0.1:9", init_timeout=1, silent=True)
    logger = RunLogger(
        save_dir=tmp_path, id="abc", project="p", resume="allow", settings=unreachable
    )
    logger.log_metrics({"train/loss": 0.5}, step=3)
    logger.finalize("success")
    logger.experiment.finish()
    (found,) = stored(tmp_path)
    assert (found.id, found.history[0]["train/loss"]) == ("abc", 0.5)
    printed = capsys.readouterr().out
    assert printed.count("Note: W&B did not begin this run online") == 1
    assert "logged offline" in printed


@pytest.mark.filterwarnings("ignore")
def test_a_row_is_kept_when_someone_else_moved_the_step_on(tmp_path):
    train(tmp_path, Talker())
    (found,) = stored(tmp_path)
    assert [row["epoch"] for row in found.history if "train/loss" in row] == [0, 1, 2]
    assert sum("mine" in row for row in found.history) == 15


def test_a_failure_of_wandb_costs_an_epoch_of_curves_and_no_training(tmp_path, capsys):
    class Run:
        """Like W&B's own, which `WandbLogger` would use."""

        step, rows = 0, []

        def log(self, row, step, commit):
            if step == 2:
                raise ConnectionError("the service is gone\nmore of it")
            self.rows.append((step, row["train/loss"]))

        def define_metric(self, *_, **__):
            pass

    logger = RunLogger(save_dir=tmp_path, id="abc", offline=True)
    logger._experiment = run = Run()
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 0.5 * step}, step=step)
        logger.flush()
    assert run.rows == [(1, 0.5), (3, 1.5)]
    assert "W&B did not take an epoch (the service is gone)" in capsys.readouterr().out
