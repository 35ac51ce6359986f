import re
from functools import wraps
from types import SimpleNamespace

import lightning as L  # noqa: N812, the name its own documentation uses
import pytest
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim import Adam

import cli
from datamodules import loading
from datamodules.base import CohortDataModule
from errors import InputError, TerminatedError
from evaluation.tables.per_case import write_csv
from lightning_modules import FeatureTransitionModule
from lightning_modules.weights.checkpoints import WholeCheckpoints, is_whole
from studies.runs.environment import hardware
from studies.runs.run import Run
from studies.tracking import weights_and_biases
from studies.training.fitting import Training, concerns
from tests.conftest import SHRUNKEN


def test_early_stopping_of_a_study_is_left_out_of_a_stage_that_measures_something_else():
    stopping, own = EarlyStopping("val/dice/mean", mode="max"), EarlyStopping("val/loss")
    module = FeatureTransitionModule()
    assert not concerns(stopping, module)
    assert concerns(own, module)
    assert concerns(ModelCheckpoint(), module)


def test_a_training_with_a_damaged_checkpoint_begins_again(in_workplace, monkeypatch, capsys):
    configs = ["--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN)]
    short = ["--trainer.max_epochs", "1", "--data.patches_per_epoch", "2"]
    words = ["fit", *configs, *short, "--runs_dir", "runs-damaged"]
    writers = []

    def end(trainer, *_, **__):
        writers.append(trainer.strategy.checkpoint_io)
        raise InputError("stopped in its first epoch")

    with monkeypatch.context() as patched:
        patched.setattr(L.Trainer, "fit", end)
        assert cli.main(words) == 2
    assert [type(writer) for writer in writers] == [WholeCheckpoints]
    (folder,) = (in_workplace / "runs-damaged" / "dynunet").iterdir()
    run = Run("dynunet", folder.name, folder)
    run.checkpoints.mkdir(exist_ok=True)
    run.last_checkpoint.write_bytes(b"half of it")
    half = run.checkpoints / ".last.ckpt.4711"
    half.touch()
    assert cli.main([*words, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "last.ckpt is damaged and nothing can go on from it: it is kept as last.damaged" in out
    assert run.finished
    assert is_whole(run.last_checkpoint)
    assert (run.checkpoints / "last.damaged").read_bytes() == b"half of it"
    assert not half.exists()


@pytest.mark.parametrize(("dropout", "changing"), [("0", False), ("0.2", True)])
def test_images_with_dropped_modalities_change_from_epoch_to_epoch(
    dropout, changing, in_workplace, monkeypatch
):
    configs = ["--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN)]
    words = ["--data.augmentation", "false", "--data.modality_dropout", dropout]
    found = []

    def end(trainer, model, *_, **__):
        found.append(model.augmented)
        raise InputError("stopped before its first epoch")

    monkeypatch.setattr(L.Trainer, "fit", end)
    assert cli.main(["fit", *configs, *words, "--runs_dir", f"runs-{dropout}"]) == 2
    assert found == [changing]


def test_fit_builds_prepares_and_trains_on_one_data_module(in_workplace, monkeypatch):
    configs = ["--config", "experiments/akbar2022.yaml", "--config", str(SHRUNKEN)]
    built, trained_on, construct, fit = [], [], CohortDataModule.__init__, L.Trainer.fit

    @wraps(construct)  # the parser reads its options from the signature
    def counted(data, **settings):
        built.append(data)
        construct(data, **settings)

    def noted(trainer, *words, datamodule, **others):
        trained_on.append(datamodule)
        fit(trainer, *words, datamodule=datamodule, **others)

    monkeypatch.setattr(CohortDataModule, "__init__", counted)
    monkeypatch.setattr(L.Trainer, "fit", noted)
    words = ["fit", *configs, "--trainer.fast_dev_run", "true", "--runs_dir", "runs-once"]
    assert cli.main(words) == 0
    assert len(built) == 1
    assert trained_on == built
    assert built[0].trainer is not None


def test_too_little_shared_memory_is_refused_before_a_run_begins(in_workplace, monkeypatch, capsys):
    found, reached = SimpleNamespace(free=5_000_000), []
    monkeypatch.setattr(loading, "shutil", SimpleNamespace(disk_usage=lambda _: found))
    monkeypatch.setattr(L.Trainer, "fit", lambda *_, **__: reached.append(True))
    configs = ["--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN)]
    words = ["fit", *configs, "--runs_dir", "runs-shared", "--data.num_workers"]
    assert cli.main([*words, "9"]) == 2
    advice = re.search(
        r"data\.num_workers is 9, .*--data\.num_workers (\d)", capsys.readouterr().err
    )
    assert not (in_workplace / "runs-shared").exists()
    assert reached == []
    assert cli.main([*words, advice[1]]) == 2  # without an epoch no checkpoint was selected
    assert reached == [True]


def test_a_training_without_a_validation_is_not_finished(in_workplace, monkeypatch, capsys):
    configs = ["--config", "experiments/dynunet.yaml", "--config", str(SHRUNKEN)]
    monkeypatch.setattr(L.Trainer, "fit", lambda *_, **__: None)  # its time ended immediately
    assert cli.main(["fit", *configs, "--runs_dir", "runs-unselected"]) == 2
    assert "ended before its first validation" in capsys.readouterr().err
    (folder,) = (in_workplace / "runs-unselected" / "dynunet").iterdir()
    assert not Run("dynunet", folder.name, folder).finished


def test_an_optimiser_that_refuses_its_settings_is_one_sentence():
    module = FeatureTransitionModule(optimizer=lambda weights: Adam(weights, lr=-1.0))
    with pytest.raises(InputError, match=r"model.optimizer: Invalid learning rate: -1.0, give"):
        module.configure_optimizers()


def test_overwrite_leaves_a_run_that_another_process_trains(tmp_path):
    run = Run("dynunet", "abc", tmp_path / "dynunet" / "abc")
    run.update_manifest(status="running")
    session = Training.__new__(Training)
    session.run, session.overwrite = run, True
    with run.lock():  # noqa: SIM117 - the second is refused
        with pytest.raises(InputError, match="cannot be moved aside"):
            session.check_started()
    session.check_started()
    assert not run.folder.exists()


def test_a_stage_that_was_stopped_is_named_before_anything_begins(tmp_path):
    first, second, last = (Run(name, "abc", tmp_path / name / "abc") for name in "abc")
    for run in (first, second):
        run.update_manifest(status="running")
    session = Training.__new__(Training)
    session.run, session.overwrite, session.resume = last, False, False
    below = SimpleNamespace(run=first, stages={})
    stage = SimpleNamespace(run=second, stages={"a.yaml": below})
    session.plan = SimpleNamespace(stages={"b.yaml": stage})
    message = r"^Its stage a was begun before .*a/abc\): repeat .*--resume.*again\.$"
    with pytest.raises(InputError, match=message):
        session.check_started()
    with first.lock(), pytest.raises(InputError, match="Its stage b was begun"):
        session.check_started()
    with first.lock(), second.lock():
        session.check_started()  # other processes train them: wait
    session.resume = True
    session.check_started()


def test_killed_while_it_concludes_a_training_concludes_again_and_trains_nothing(
    tmp_path, monkeypatch
):
    run = Run("mine", "abc", tmp_path / "mine" / "abc")
    fits, asked = [], []

    def fit(model, **others):
        fits.append(model)
        run.checkpoints.mkdir(parents=True)
        run.best_checkpoint.touch()
        write_csv([{"epoch": 0, "step": 4, "val/loss": 0.5}], run.metrics_file)

    def conclude(wandb_run, run, built_from):
        asked.append(run.manifest()["scores"])
        if len(asked) == 1:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(weights_and_biases, "conclude", conclude)
    monkeypatch.setattr(Training, "begin", lambda *words: run.update_manifest(status="running"))
    model = SimpleNamespace(monitor="val/loss", monitor_mode="min", has_nothing_to_train=False)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], fit=fit, lightning_module=model)
    trainer.callback_metrics = {"val/loss": 0.5}
    plan = SimpleNamespace(run=run, stages={}, checkpoints=dict)
    arguments = Namespace(resume=False, overwrite=False, trainer=Namespace(fast_dev_run=False))
    with pytest.raises(KeyboardInterrupt):
        Training(plan, arguments).execute(trainer, model, None)
    assert not run.finished
    arguments.resume = True
    Training(plan, arguments).execute(trainer, model, None)
    assert run.finished
    assert (len(fits), len(asked)) == (1, 2)
    assert asked[0] == asked[1]
    assert (run.folder / "curves.png").is_file()


@pytest.mark.parametrize(
    ("left", "interrupted", "expected"),
    [
        (SystemExit(1), True, KeyboardInterrupt),
        (SIGTERMException(), True, TerminatedError),
        (SystemExit(3), False, SystemExit),
    ],
)
def test_what_lightning_leaves_without_a_word_is_a_stop(monkeypatch, left, interrupted, expected):
    def leave(*words):
        raise left

    monkeypatch.setattr(Training, "_run", leave)
    with pytest.raises(expected) as stop:
        Training.__new__(Training).execute(SimpleNamespace(interrupted=interrupted), None, None)
    assert stop.type is expected


def test_what_may_change_the_last_digits_is_said(tmp_path):
    run = Run("dynunet", "abc", tmp_path / "dynunet" / "abc")
    now = hardware()
    run.update_manifest(status="running", hardware={**now, "threads": now["threads"] + 1})
    session = Training.__new__(Training)
    session.run, session.resume = run, True
    session.plan = SimpleNamespace(config={"trainer": {"max_time": "00:01:00:00"}})
    (clock,) = session.not_repeatable()  # it begins anew: nothing of the first part is left
    assert "by the clock" in clock
    run.checkpoints.mkdir()
    run.last_checkpoint.touch()
    session.plan = SimpleNamespace(config={"trainer": {"max_time": None}})
    (machine,) = session.not_repeatable()
    assert f"threads {now['threads'] + 1} then, {now['threads']} now" in machine
    run.update_manifest(hardware=now)
    assert session.not_repeatable() == []
