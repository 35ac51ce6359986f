"""An invalid trainer setting is one sentence that names it, before anything is prepared."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

import cli
from datamodules import BraTSPatchDataModule
from errors import InputError
from studies.settings import trainer_check
from studies.settings.trainer_check import (
    DEFAULTS,
    build_trainer,
    check_interval,
    check_trainer,
    explained,
)

CPU = {"accelerator": "cpu", "logger": {"class_path": "a.Logger"}, "callbacks": []}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("accelerator", "foo"),
        ("accelerator", "tpu"),
        ("devices", 0),
        ("devices", "x"),
        ("devices", [0, 1]),
        ("strategy", "foo"),
        ("strategy", "fsdp"),
        ("strategy", "deepspeed"),
        ("max_time", "abc"),
        ("precision", "7"),
        ("precision", "64-true"),
        ("max_epochs", -5),
        ("max_epochs", 0),
        ("min_epochs", -1),
        ("max_steps", -3),
        ("max_steps", 0),
        ("limit_train_batches", 5.5),
        ("limit_train_batches", 0),
        ("limit_val_batches", 0),
        ("accumulate_grad_batches", 0),
        ("num_nodes", 0),
        ("gradient_clip_algorithm", "foo"),
        ("gradient_clip_val", -1.0),
        ("profiler", "foo"),
        ("plugins", "foo"),
        ("val_check_interval", 0),
        ("val_check_interval", 5.5),
        ("check_val_every_n_epoch", 0),
        ("fast_dev_run", -1),
        ("overfit_batches", 3.5),
        ("enable_checkpointing", False),
        ("enable_progress_bar", False),
        ("log_every_n_steps", -1),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting, value):
    with pytest.raises(InputError) as refused:
        check_trainer({**CPU, setting: value})
    text = str(refused.value)
    assert text.startswith(f"trainer.{setting} is {value!r}")
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("setting", "advice"),
    [("enable_checkpointing", "--trainer.fast_dev_run 1"), ("enable_progress_bar", "| cat")],
)
def test_a_switch_that_stays_on_has_advice(setting, advice):
    with pytest.raises(InputError, match="leave it out") as refused:
        check_trainer({**CPU, setting: False})
    assert advice in str(refused.value)


def test_what_can_be_passes_and_objects_are_left_for_later():
    check_trainer({**CPU, "max_epochs": -1, "devices": 2, "plugins": [{"class_path": "a.B"}]})
    check_trainer({**CPU, "precision": "bf16-mixed", "val_check_interval": 0.5, "max_steps": 3})
    check_trainer({**CPU, "fast_dev_run": 2, "enable_checkpointing": False})


def test_limits_that_contradict_each_other():
    with pytest.raises(InputError, match=r"min_epochs is 5, more than trainer.max_epochs, 2"):
        check_trainer({**CPU, "min_epochs": 5, "max_epochs": 2})


def test_a_training_that_would_validate_no_epoch():
    with pytest.raises(InputError, match=r"check_val_every_n_epoch is 3, more than"):
        check_trainer({**CPU, "check_val_every_n_epoch": 3, "max_epochs": 2})
    check_trainer({**CPU, "check_val_every_n_epoch": 3, "max_epochs": 3})
    check_trainer({**CPU, "check_val_every_n_epoch": 3, "max_epochs": -1})


def test_a_bug_keeps_its_traceback(monkeypatch):
    class Broken:
        def __init__(self, **settings):
            raise TypeError("a bug")

    monkeypatch.setattr(trainer_check.L, "Trainer", Broken)
    with pytest.raises(TypeError, match="a bug"):
        build_trainer({"accelerator": "cpu", "max_epochs": 3})
    with pytest.raises(ValueError, match="a bug"), explained():
        raise ValueError("a bug")


def test_every_setting_with_an_expectation_is_one_of_lightning():
    assert set(trainer_check.EXPECTED) <= set(DEFAULTS)


@pytest.mark.parametrize("words", [["max_time", "abc"], ["devices", "0"], ["strategy", "foo"]])
def test_it_is_refused_before_the_data_are_prepared(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(BraTSPatchDataModule, "prepare_data", None)
    monkeypatch.chdir(tmp_path)
    configs = ["--config", "experiments/fusion.yaml"]
    assert cli.main(["fit", *configs, f"--trainer.{words[0]}", words[1]]) == 2
    assert capsys.readouterr().err.startswith(f"lightning fit: trainer.{words[0]} is ")


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({"val_check_interval": 0.5}, True),
        ({"val_check_interval": 0.7}, False),
        ({"val_check_interval": 5}, True),
        ({"val_check_interval": 20}, False),
        ({"val_check_interval": 20, "check_val_every_n_epoch": None}, True),
        ({"val_check_interval": 15, "check_val_every_n_epoch": None}, False),
        ({"val_check_interval": 0.5, "limit_train_batches": 3}, True),
        ({"val_check_interval": 2, "limit_train_batches": 0.5}, False),
    ],
)
def test_a_validation_scores_the_weights_that_are_saved(settings, accepted):
    data = SimpleNamespace(train_dataloader=lambda: range(10))
    with nullcontext() if accepted else pytest.raises(InputError, match="would not score"):
        check_interval({"check_val_every_n_epoch": 1, **settings}, data)
