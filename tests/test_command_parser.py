"""Options of the commands with a parser of their own: written out, and none dropped."""

import pytest

import cli
from command_parser import CommandParser
from errors import InputError

# A command to an option of it, the beginning of that option, and values for it.
OPTIONS = {
    "evaluate": ("--predictions", "--pred", "a", "b"),
    "check": ("--data.root", "--data.roo", "a", "b"),
    "compare": ("--reference", "--ref", "a", "b"),
    "report": ("--reference", "--ref", "a", "b"),
    "prepare": ("--data.root", "--data.roo", "a", "b"),
    "phantom": ("--patients", "--pat", "1", "2"),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_an_option_given_twice_is_refused(command, capsys):
    option, _, one, other = OPTIONS[command]
    assert cli.main([command, option, one, option, other]) == 2
    message = capsys.readouterr().err
    assert f"{option} is given twice, {one} and {other}: leave one of them out." in message


@pytest.mark.parametrize("command", OPTIONS)
def test_the_beginning_of_an_option_is_none(command, capsys):
    _, short, one, _ = OPTIONS[command]
    with pytest.raises(SystemExit) as left:
        cli.main([command, short, one])
    assert left.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_same_value_twice_and_lists_are_taken():
    parser = CommandParser()
    parser.add_argument("--out")
    parser.add_argument("--folds", nargs="+", type=int)
    parser.add_argument("--tag", action="append")
    parser.add_argument("names", nargs="*")
    words = [
        "--out",
        "x",
        "--out",
        "x",
        "--tag",
        "a",
        "--tag",
        "b",
        "--folds",
        "1",
        "2",
        "--folds",
        "1",
        "2",
    ]
    for _ in range(2):  # a parser is used again
        found = parser.parse_args(words)
        assert (found.out, found.tag, found.folds) == ("x", ["a", "b"], [1, 2])
    with pytest.raises(InputError, match="--folds is given twice"):
        parser.parse_args(["--folds", "1", "--folds", "2"])
