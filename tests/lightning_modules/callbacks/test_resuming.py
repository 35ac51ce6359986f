"""An interrupted training ends like an uninterrupted one: data, draws, rates, checkpoints."""

import shutil

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from datamodules.base import CohortDataModule
from datamodules.loading import collate
from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.metrics_file import MetricsFile, read_metrics
from lightning_modules.callbacks.resuming import Ending, checkpoints
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.weights.checkpoints import WholeCheckpoints

ITEMS, PER_STEP = 8, 2
STEPS = ITEMS // PER_STEP


class Items(Dataset):
    """A data set of any length, whose items depend on their number, as for patches."""

    def __len__(self):
        return ITEMS

    def __getitem__(self, item):
        image = torch.from_numpy(np.random.default_rng(item).normal(size=8)).float()
        return {"image": image, "case_id": str(item)}


class Data(L.LightningDataModule):
    """The order of the real data modules over those items."""

    patch_size = (8,)
    _global_order = CohortDataModule._global_order
    ranks = CohortDataModule.ranks

    def __init__(self, workers):
        super().__init__()
        self.workers = workers

    def train_dataloader(self):
        return DataLoader(
            items := Items(),
            batch_size=PER_STEP,
            sampler=self._global_order(items),
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self):
        return DataLoader([{"image": 0}], batch_size=1)


class Noting(TrainingModule):
    """A module that records the input of every step; its validation follows a given curve."""

    def __init__(self, curve, **training):
        super().__init__(loss=nn.MSELoss(), **training)
        self.network = nn.Linear(8, 1)
        self.curve = curve
        self.steps = {}

    def compute_loss(self, batch):
        kept = nn.functional.dropout(batch["image"], 0.5)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        dropped = tuple((kept != 0).flatten().tolist())
        self.steps[self.trainer.global_step] = (tuple(batch["case_id"]), dropped, rate)
        return self.network(kept).square().mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log(self.monitor, torch.tensor(self.curve[self.current_epoch]))


class BrokenOffError(Exception):
    pass


class Breaks(Callback):
    """Interrupt a training like a kill, after the last files were written."""

    def __init__(self, hook, epoch):
        def end(trainer, *_):
            if trainer.current_epoch == epoch:
                raise BrokenOffError

        setattr(self, hook, end)


def train(
    folder, curve, *, seed=0, breaks=None, stopping=None, workers=0, scheduler=None, steps=None,
    **trainer,
):  # fmt: skip
    torch.manual_seed(0)
    module = Noting(curve, scheduler=scheduler)
    module.configure_for_fit(FitSettings(patch_size=(8,), seed=seed))
    callbacks = [breaks, MetricsFile(folder / "metrics.csv"), Ending(steps)]
    if stopping:
        callbacks.insert(0, EarlyStopping(module.monitor, mode="max", patience=stopping))
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=len(curve), logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, plugins=[WholeCheckpoints()],
        default_root_dir=folder, log_every_n_steps=1, **trainer,
        callbacks=[*filter(None, callbacks), *checkpoints(folder / "checkpoints", module)],
    )  # fmt: skip
    last = folder / "checkpoints" / "last.ckpt"
    path = last if last.is_file() else None
    trainer.fit(module, datamodule=Data(workers), ckpt_path=path, weights_only=True)
    return module


def left_in(folder):
    """Return epoch, step and weights of both checkpoints, and the metrics, for comparison."""
    found = {}
    for name in ("best", "last"):
        file = folder / "checkpoints" / f"{name}.ckpt"
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        weights = {key: value.tolist() for key, value in checkpoint["state_dict"].items()}
        found[name] = (checkpoint["epoch"], checkpoint["global_step"], weights)
    return {**found, "metrics": read_metrics(folder / "metrics.csv")}


def halving(optimizer):
    return ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=1)


RISING, FALLING = (0.1, 0.2, 0.3, 0.4), (0.9, 0.2, 0.1, 0.15)
LATE = (0.5, 0.4, 0.3, 0.6, 0.7, 0.8)  # early stopping with patience 2 ends it before


@pytest.mark.parametrize(
    ("curve", "broken", "settings"),
    [
        pytest.param(RISING, ("on_train_epoch_start", 2), {}, id="plain"),
        pytest.param(RISING, ("on_train_epoch_start", 2), {"workers": 2}, id="loader processes"),
        pytest.param(
            (0.5, 0.4, 0.3, 0.2, 0.1), ("on_train_epoch_start", 2), {"scheduler": halving},
            id="plateau",
        ),
        pytest.param(LATE, ("on_train_end", 3), {"stopping": 2}, id="stopped early"),
        pytest.param(
            LATE, ("on_train_epoch_start", 4), {"stopping": 2, "min_epochs": 5},
            id="stopped early, at least five epochs",
        ),
        pytest.param(
            RISING, ("on_train_epoch_start", 2), {"steps": 3 * STEPS - 1}, id="steps, mid-epoch"
        ),
        pytest.param(RISING, ("on_train_epoch_start", 2), {"steps": 3 * STEPS}, id="steps"),
        pytest.param(
            RISING, ("on_train_epoch_start", 2),
            {"check_val_every_n_epoch": 2, "scheduler": halving, "stopping": 1},
            id="a validation every other epoch",
        ),
        pytest.param(
            RISING, ("on_train_epoch_start", 2), {"accumulate_grad_batches": 3}, id="accumulated"
        ),
    ],
)  # fmt: skip
def test_it_ends_like_an_unbroken_one(tmp_path, curve, broken, settings):
    whole = train(tmp_path / "whole", curve, **settings)
    with pytest.raises(BrokenOffError):
        train(tmp_path / "broken", curve, breaks=Breaks(*broken), **settings)
    begun = left_in(tmp_path / "broken")["last"][1]
    resumed = train(tmp_path / "broken", curve, **settings)
    assert resumed.steps == {step: seen for step, seen in whole.steps.items() if step >= begun}
    assert left_in(tmp_path / "broken") == left_in(tmp_path / "whole")


def test_limits_end_where_they_say(tmp_path):
    steps = 2 * STEPS + 1
    assert max(train(tmp_path / "steps", RISING, steps=steps).steps) == steps - 1
    assert max(train(tmp_path / "stopped", LATE, stopping=2).steps) == 3 * STEPS - 1
    rates = [seen[2] for seen in train(tmp_path / "p", FALLING, scheduler=halving).steps.values()]
    assert rates[::STEPS] == [3e-4, 3e-4, 3e-4, 1.5e-4]


def test_an_epoch_without_validation_shows_none_and_moves_no_rate(tmp_path):
    settings = {"check_val_every_n_epoch": 2, "scheduler": halving}
    train(tmp_path / "stopped", (0.5,) * 8, stopping=1, min_epochs=8, **settings)
    rows = read_metrics(tmp_path / "stopped" / "metrics.csv")
    assert [int(row["epoch"]) for row in rows if "val/dice/mean" in row] == [1, 3, 5, 7]
    assert [row["lr"] for row in rows] == [3e-4] * 6 + [1.5e-4] * 2
    train(tmp_path / "limited", RISING, steps=2 * STEPS + 1, **settings)
    rows = read_metrics(tmp_path / "limited" / "metrics.csv")
    assert [row.get("val/dice/mean") for row in rows] == [
        None,
        pytest.approx(0.2),
        pytest.approx(0.3),
    ]


def test_the_best_goes_along_with_a_folder_that_is_moved(tmp_path):
    train(tmp_path / "whole", FALLING)
    with pytest.raises(BrokenOffError):
        train(tmp_path / "here", FALLING, breaks=Breaks("on_train_epoch_start", 2))
    shutil.move(tmp_path / "here", tmp_path / "elsewhere")
    train(tmp_path / "elsewhere", FALLING)
    assert left_in(tmp_path / "elsewhere") == left_in(tmp_path / "whole")
    assert left_in(tmp_path / "elsewhere")["best"][0] == 0


def test_every_step_and_every_seed_drops_its_own(tmp_path):
    steps = [train(tmp_path / f"{seed}", (0.1, 0.2), seed=seed).steps for seed in (0, 1)]
    drawn = {dropped for found in steps for _, dropped, _ in found.values()}
    assert len(drawn) == 2 * 2 * STEPS
