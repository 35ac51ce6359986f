"""Command lines of fit: parsed once where only numbers differ, and still what a parser makes."""

import pytest

from errors import InputError
from studies.settings.command_line import CommandLine
from studies.training import fit_parser
from studies.training.fit_parser import FitParser


@pytest.fixture(scope="module")
def parser():
    return FitParser()


def line(*words, experiment="dynunet"):
    return CommandLine.parse(["--config", f"experiments/{experiment}.yaml", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--seed_everything=0", "--data.seed=0"],
        ["--seed_everything", "1", "--data.seed", "1", "--data.train_patients", "4"],
        ["--data.n_folds=5", "--data.fold=2", "--data.fold=3", "--seed_everything=2"],
        ["--seed_everything", "true", "--data.train_patients", "null"],
        ["--data.seed=010"],
    ],
    ids=["zero", "words", "the last one counts", "no number", "leading zero"],
)
def test_a_number_is_set_as_a_parser_sets_it(parser, words):
    # as text, since True and 1 are equal
    assert repr(parser.parse_fit(line(*words))) == repr(parser.resolve(line(*words)))


def test_lines_that_differ_in_a_seed_are_parsed_once(parser):
    before = len(parser.known)
    found = [parser.parse_fit(line(f"--data.seed={seed}", "--data.spacing=3")) for seed in range(5)]
    assert len(parser.known) == before + 1
    assert [one["data"]["init_args"]["seed"] for one in found] == list(range(5))


def test_a_number_that_the_data_do_not_take_is_refused(parser, monkeypatch):
    monkeypatch.setattr(fit_parser, "VARIED", ("data.folds",))
    with pytest.raises(InputError, match=r"data\.folds"):
        parser.parse_fit(line("--data.folds=3"))
