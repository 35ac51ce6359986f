"""An interrupted training ends like an uninterrupted one: data, draws, rates, checkpoints."""

import copy
import math
import shutil
import sys

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from datamodules.base import CohortDataModule
from datamodules.loading import collate
from errors import InputError
from lightning_modules.base import TrainingModule
from lightning_modules.callbacks.averaging import MovingAverage
from lightning_modules.callbacks.metrics_file import MetricsFile, read_metrics
from lightning_modules.callbacks.resuming import Ending, checkpoints
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.optimisation.schedules import WarmupCosine
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
    averaging=None, **trainer,
):  # fmt: skip
    torch.manual_seed(0)
    module = Noting(curve, scheduler=scheduler)
    module.configure_for_fit(FitSettings(patch_size=(8,), seed=seed, max_steps=steps))
    callbacks = [averaging, breaks, MetricsFile(folder / "metrics.csv"), Ending(steps)]
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


def warmed(optimizer):
    return WarmupCosine(optimizer, warmup_steps=3)


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
        pytest.param(
            RISING, ("on_train_epoch_start", 2), {"scheduler": warmed, "workers": 2}, id="warm-up"
        ),
        pytest.param(
            RISING, ("on_train_epoch_start", 2),
            {"scheduler": warmed, "accumulate_grad_batches": 3, "steps": 7}, id="warm-up, limited",
        ),
        pytest.param(
            FALLING, ("on_train_epoch_start", 2),
            {"averaging": MovingAverage(0.8), "scheduler": warmed}, id="averaged",
        ),
        pytest.param(
            RISING, ("on_train_epoch_start", 2),
            {"averaging": EMAWeightAveraging(decay=0.8)}, id="averaged by Lightning",
        ),
    ],
)  # fmt: skip
def test_it_ends_like_an_unbroken_one(tmp_path, curve, broken, settings):
    settings = dict(settings)
    averaging = settings.pop("averaging", None)

    def run(name, **more):
        fresh = copy.deepcopy(averaging)  # as a new process builds it
        return train(tmp_path / name, curve, averaging=fresh, **settings, **more)

    whole = run("whole")
    with pytest.raises(BrokenOffError):
        run("broken", breaks=Breaks(*broken))
    begun = left_in(tmp_path / "broken")["last"][1]
    resumed = run("broken")
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


@pytest.mark.parametrize(("settings", "length"), [({}, 4 * STEPS), ({"steps": 10}, 10)])
def test_a_warm_up_and_a_cosine_end_with_the_last_step(tmp_path, settings, length):
    module = train(tmp_path, RISING, scheduler=warmed, **settings)
    falling = [1 + math.cos(math.pi * step / (length - 3)) for step in range(length - 3)]
    expected = [1 / 3, 5 / 9, 7 / 9, *(share / 2 for share in falling)]
    found = [rate / 3e-4 for _, _, rate in module.steps.values()]
    assert found == pytest.approx(expected)
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_a_warm_up_as_long_as_the_training_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"warmup_steps is 3 of 3 optimiser steps"):
        train(tmp_path, (0.1,), scheduler=warmed, steps=3)
    with pytest.raises(InputError, match=r"this one has no end: set trainer\.max_epochs"):
        warmed(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)).last_until(math.inf)


class Frozen(Noting):
    """A module with a frozen layer, which records its weights after every step and validated."""

    def __init__(self, curve, **training):
        super().__init__(curve, **training)
        self.frozen = nn.BatchNorm1d(8).requires_grad_(requires_grad=False).eval()
        self.frozen.running_var.uniform_(0.1, 3.0)
        self.frozen.num_batches_tracked.fill_(100)
        self.before = {key: one.clone() for key, one in self.frozen.state_dict().items()}
        self.trained, self.validated_weights = [], []

    def on_before_zero_grad(self, optimizer):
        self.trained.append(self.network.weight.detach().clone())

    def validation_step(self, batch, batch_idx):
        self.validated_weights.append(self.network.weight.detach().clone())


def test_averaged_weights_are_validated_and_saved_and_frozen_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "Noting", Frozen)
    module = train(tmp_path, (0.1, 0.9, 0.2), averaging=MovingAverage(0.8))
    average = module.trained[1]  # the first is before any step; the average begins with one
    averages = [average := 0.8 * average + 0.2 * weight for weight in module.trained[1:]]
    for epoch in (0, 1):  # the weights after the very last step are not recorded
        torch.testing.assert_close(
            module.validated_weights[epoch], averages[(epoch + 1) * STEPS - 1]
        )
    stored = {
        name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    }
    for name, epoch in (("best", 1), ("last", 2)):
        state = stored[name]["state_dict"]
        assert torch.equal(state["network.weight"], module.validated_weights[epoch])
        for key, value in module.before.items():
            assert torch.equal(state[f"frozen.{key}"], value)
    assert set(stored["best"]) & {"current_model_state", "averaging_state"} == set()
    assert not torch.equal(
        stored["last"]["current_model_state"]["network.weight"], module.validated_weights[2]
    )
    assert torch.equal(module.network.weight, module.validated_weights[2])  # after the training


def test_a_share_kept_of_one_is_refused():
    with pytest.raises(InputError, match=r"decay of MovingAverage is 1\.0"):
        MovingAverage(1.0)
