"""A value of the wrong type is one short sentence, wherever it was written."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Union

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

import cli
from datamodules import BraTSPatchDataModule
from studies.settings.wrong_types import expected, import_path


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or null"),
        (None | str | list[int], "text or a list in brackets (each a whole number) or null"),
        (Union[int, Sequence[str]], "a whole number or a list in brackets (each text)"),  # noqa: UP007
        (Sequence[Literal["a", "b"]], "a list in brackets (each one of a, b)"),
        (Literal["a", 2] | dict[str, float], "one of a, 2 or keys with values (each a number)"),
        (Callable[[int], torch.nn.Module] | torch.Tensor, "the path of a class"),
        (Any, ""),
        (None, ""),
    ],
)
def test_types_in_words(hint, words):
    assert expected(hint) == words


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (BraTSPatchDataModule, "datamodules.BraTSPatchDataModule"),
        (EarlyStopping, "lightning.pytorch.callbacks.EarlyStopping"),
        (torch.optim.lr_scheduler.StepLR, "torch.optim.lr_scheduler.StepLR"),
    ],
)
def test_a_class_is_named_by_its_shortest_path(kind, path):
    assert import_path(kind) == path


def test_an_option_and_a_setting_of_a_file_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--config", "experiments/dynunet.yaml"]
    for more, message in (
        (
            ["--data.augmentation", "foo"],
            "--data.augmentation is foo: expected true or false or randomised or nnunet.",
        ),
        (["--data.protocol", "mine"], "--data.protocol is mine: expected one of default, paper."),
        (["--trainer.max_epochs=1.5"], "--trainer.max_epochs is 1.5: expected a whole number or "),
        (["--config", "mine.yaml"], "mine.yaml: data.batch_size is many: expected a whole number."),
    ):
        (tmp_path / "mine.yaml").write_text("data: {init_args: {batch_size: many}}")
        assert cli.main([*words, *more]) == 2
        assert capsys.readouterr().err.startswith(f"lightning fit: {message}")


@pytest.mark.parametrize("kind", ["callbacks", "plugins", "logger"])
def test_where_a_class_is_taken_its_path_is_expected(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--config", "experiments/dynunet.yaml", f"--trainer.{kind}", "foo"]
    assert cli.main(["fit", *words]) == 2
    assert "the path of a class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model.scheduler", "StepLR"],
            "--model.scheduler is torch.optim.lr_scheduler.StepLR and lacks step_size: give each a "
            "value, as --model.scheduler.NAME.",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping"],
            "--trainer.callbacks+ is lightning.pytorch.callbacks.EarlyStopping and lacks monitor",
        ),
        (["--data", "datamodules.Foo"], "--data is datamodules.Foo, which cannot be imported"),
        (["--trainer.logger", "foo.Bar"], "--trainer.logger is foo.Bar, which cannot be imported"),
        (["--model.network", "backbones.Foo"], "--model.network is backbones.Foo, which cannot"),
        (["--model.network", "foo"], "--model.network is foo: expected the path of a class"),
        (["--model.network.class_path", "x.Y"], "--model.network.class_path is x.Y, which cannot"),
        (
            ["--data.patch_size", "[a,b]"],
            "--data.patch_size is [a,b]: expected a list in brackets",
        ),
        (["--model.network.norm", "layer"], "--model.network.norm is layer: expected one of batch"),
        (["--model.optimizer.lr", "nan"], "--model.optimizer.lr is nan: expected a number"),
    ],
)
def test_a_class_that_cannot_be_used_is_named(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "--config", "experiments/dynunet.yaml", *words]) == 2
    assert f"lightning fit: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_range_is_refused(seed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--config", "experiments/dynunet.yaml", "--seed_everything", seed]
    assert cli.main(["fit", *words]) == 2
    assert f"seed_everything is {seed}: expected 0 to 4294967295." in capsys.readouterr().err
