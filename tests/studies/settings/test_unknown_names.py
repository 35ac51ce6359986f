"""An unknown setting is one sentence with its place and the nearest known name."""

from argparse import ArgumentError
from typing import Optional, Union

import pytest
import yaml

import cli
from errors import InputError
from studies.benchmarks.benchmark_file import read_benchmark
from studies.benchmarks.plan import make_plan
from studies.commands import sweep
from studies.runs.planning import Planner
from studies.settings.command_line import CommandLine
from studies.settings.unknown_names import (
    ExperimentParser,
    UnknownSettingError,
    explain,
    nearest,
    placed,
)
from studies.training.fit_parser import FitParser

SAM = "experiments/sam_adapter.yaml"
ADAM = "torch.optim.Adam"
DATA = "datamodules.BraTSPatchDataModule"
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.fixture(scope="module")
def parser():
    return FitParser()


@pytest.fixture
def planner(parser, tmp_path, monkeypatch):
    """A planner that only checks settings, before any data are prepared."""
    made = Planner(parser.parse_fit, tmp_path)
    monkeypatch.setattr(made, "prepare_cohort", None)
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("trainr.max_epochs", "trainer.max_epochs"),
        ("modl.size", "model.size"),
        ("resum", "resume"),
        ("epochs", "trainer.max_epochs"),
        ("quantum", ""),
        ("trainer.quantum", ""),  # a shared group is no similarity
        ("batch", "batch_size"),
    ],
)
def test_the_nearest(name, expected):
    known = ["model", "trainer.max_epochs", "trainer.devices", "resume", "batch_size"]
    assert nearest(name, known) == expected


@pytest.mark.parametrize(
    ("words", "owner", "message"),
    [
        ("--data.batchsize 4", DATA, "the nearest is --data.batch_size."),
        ("--data.batch 4", DATA, "the nearest is --data.batch_size."),
        ("--data.init_args.frold 1", DATA, "the nearest is --data.init_args.fold."),
        ("--trainer.max_epoch 3", "", "the nearest is --trainer.max_epochs."),
        ("--modl.size tiny", "", "the nearest is --model.size."),
        ("--resum", "", "the nearest is --resume."),
        ("--quantum 3", "", "`lightning fit --help` lists what there is."),
        (
            "--model.optimizer.init_args.lrr 1",
            ADAM,
            "the nearest is --model.optimizer.init_args.lr.",
        ),
    ],
)
def test_a_mistyped_flag_is_told_with_the_nearest(words, owner, message, parser):
    line = CommandLine.parse(["--config", "experiments/dynunet.yaml", *words.split()])
    with pytest.raises(ArgumentError) as refused:
        parser.parser.parse_args(["fit", *line.words()])
    place = f" in {owner}" if owner else ""
    sentence = f"there is no {words.split()[0]}{place}: {message}"
    assert str(explain(refused.value, line, typed=True)) == sentence


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--data.modality_dropout null", "expected a number"),
        ("--data.phantom_patients None", "expected a whole number"),
        ("--data.augmentation null", "expected true or false or randomised or nnunet"),
        ("--trainer.accumulate_grad_batches null", "expected a whole number"),
        ("--model.loss.squared_pred null", "expected true or false"),
        ("--model.optimizer.eps null", "expected a number"),
    ],
)
def test_null_is_refused_where_a_type_lacks_it(words, expected, parser):
    line = CommandLine.parse(["--config", "experiments/dynunet.yaml", *words.split()])
    with pytest.raises(ArgumentError) as refused:
        parser.parser.parse_args(["fit", *line.words()])
    option, value = words.split()
    assert str(explain(refused.value, line, typed=True)) == f"{option} is {value}: {expected}."


def test_null_is_taken_where_a_type_has_it(parser):
    words = "--data.root null --data.healthy_share null --model.weights null"
    line = CommandLine.parse(["--config", "experiments/dynunet.yaml", *words.split()])
    config = parser.parse_fit(line)
    assert config["data"]["init_args"]["healthy_share"] is None


def test_the_help_of_the_command_itself_is_named(parser):
    line = CommandLine.parse(["--config", "experiments/dynunet.yaml", "--quantum", "3"])
    with pytest.raises(ArgumentError) as refused:
        parser.parser.parse_args(["fit", *line.words()])
    message = explain(refused.value, line, typed=True, command="validate")
    assert "`lightning validate --help` lists what there is." in str(message)


def test_options_of_the_parser_itself_are_no_settings():
    made = ExperimentParser(exit_on_error=False)
    made.add_argument("--rule")
    made.add_argument("--print_rules", action="store_true")
    made.add_argument("--print_shtab", action="store_true")
    line = CommandLine.parse(["--shtab"])
    with pytest.raises(ArgumentError) as refused:
        made.error("unrecognized arguments: --shtab")
    message = str(explain(refused.value, line, typed=True))
    assert message == "there is no --shtab: expected one of rule."


def test_a_wrong_value_keeps_its_own_words(parser):
    line = CommandLine.parse(["--config", "experiments/dynunet.yaml", "--trainer.max_epochs=x"])
    with pytest.raises(InputError, match=r"^experiments/dynunet.yaml: .*max_epochs.*x") as refused:
        parser.parse_fit(line)
    assert not isinstance(refused.value, UnknownSettingError)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"data": {"batchsize": 4}}, "there is no data.batchsize.* is data.batch_size"),
        ({"trainer": {"max_epoch": 4}}, "there is no trainer.max_epoch: .* trainer.max_epochs"),
        (
            {"model": {"init_args": {"network": {"init_args": {"first_block": 4}}}}},
            "there is no model.network.first_block.*: the nearest is model.network.first_blocks",
        ),
        (
            {"trainer": {"callbacks": [{"class_path": STOPPING, "init_args": {"monitr": "x"}}]}},
            "there is no trainer.callbacks.monitr.*: the nearest is trainer.callbacks.monitor",
        ),
    ],
)
def test_a_setting_of_an_overlay_is_told_with_the_file(content, sentence, parser, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(content))
    line = CommandLine.parse(["--config", SAM, "--config", str(overlay)])
    if "data" in content:
        line.configs[0] = "experiments/dynunet.yaml"
    with pytest.raises(UnknownSettingError, match=rf"^{overlay}: {sentence}\.$"):
        parser.parse_fit(line)


@pytest.mark.parametrize(
    ("changes", "words", "sentence"),
    [
        ({"options": {"data.batchsize": 2}}, [], r"mine.yaml: dynunet: .*is data.batch_size\."),
        ({"test": {"data.drop": ["t5"]}}, [], r"mine.yaml: test odd: data.drop is \['t5'\]"),
        ({"test": {"data.dorp": ["t1"]}}, [], r"mine.yaml: test odd: .*is data.drop\."),
        ({"test": {"rul": "nan"}}, [], r"mine.yaml: test odd has the unknown option rul"),
        ({}, ["--data.batchsize=2"], r"^there is no data.batchsize in"),
    ],
)
def test_a_benchmark_is_refused_when_it_is_read(changes, words, sentence, planner, tmp_path):
    options = {"options": changes["options"]} if "options" in changes else {}
    content = {
        "reference": "dynunet",
        "experiments": [{"file": "experiments/dynunet.yaml", **options}],
        "test": [{"name": "odd", "options": changes.get("test", {"data.drop": ["t1"]})}],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=sentence):
        make_plan(read_benchmark(str(tmp_path / "mine.yaml")), planner, CommandLine.parse(words))


@pytest.mark.parametrize(
    ("name", "words", "sentence"),
    [
        ("model.network.init_args.first_block", [], "init_args.first_blocks."),
        ("data.selecton", [], "mine.yaml: there is no data.selecton in datamodules"),
        ("data.seed", ["--data.selecton=x"], "lightning sweep: there is no data.selecton in"),
        ("data.seed", ["--dryrun"], "lightning sweep: there is no dryrun: "),
    ],
)
def test_a_sweep_too(name, words, sentence, planner, tmp_path, monkeypatch, capsys):
    content = {
        "command": ["${env}", "lightning", "fit", "--config", SAM, "${args}"],
        "method": "grid",
        "parameters": {name: {"values": [1, 2]}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(sweep, "make_planner", lambda runs_dir: planner)
    assert cli.main(["sweep", str(tmp_path / "mine.yaml"), *words]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


def test_what_stands_on_the_command_line_is_in_no_file():
    line = CommandLine.parse(["--data.x=1"])
    with pytest.raises(InputError, match=r"^no x$"), placed("a.yaml", line):
        raise UnknownSettingError("no x", "data.x")
    with pytest.raises(InputError, match=r"^a.yaml: no y$"), placed("a.yaml", line):
        raise UnknownSettingError("no y", "data.y")


class Limited:
    """As Trainer's limits are annotated once another package has named its float first."""

    def __init__(self, limit: Optional[Union[float, int]] = None):  # noqa: UP007, UP045
        self.limit = limit


@pytest.mark.parametrize("word", ["1", "1.0"])
def test_one_batch_is_not_all_of_them(word):
    parser = ExperimentParser()
    parser.add_class_arguments(Limited, "trainer")
    limit = parser.parse_args([f"--trainer.limit={word}"]).trainer.limit
    assert (limit, type(limit)) == (1, int if word == "1" else float)
