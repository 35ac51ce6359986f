"""The help of every command ends with an example that can be typed as it stands."""

import re
import shlex

import pytest

import cli
from command_parser import CommandParser, with_examples
from tests.conftest import ROOT


def help_of(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_ends_with_an_example(command, capsys):
    text, found, below = help_of(command, capsys).partition("\nexample")
    assert found
    assert "<function" not in text  # of an option whose type has no name
    description = text.split("\n\n")[1]
    assert description[0].isupper()
    assert description.endswith(".")  # a whole sentence
    lines = [line.strip() for line in below.splitlines()[1:] if line]
    assert lines
    for line in lines:
        assert line.startswith(f"lightning {command} ")
        words = shlex.split(line)[2:]
        options = {word for word in words if word.startswith("--")}
        assert not {option for option in options if not known(option, text)}
        files = [word for word in words if word.startswith("experiments/")]
        assert not [file for file in files if not (ROOT / file).is_file()]


def known(option, text):
    """Whether a help lists an option; data options have a help of their own."""
    if option == "--data.root" and "--data.help" in text:
        return True
    return re.search(rf"(?<![\w.-]){re.escape(option)}\b(?![.-])", text) is not None


def test_examples_are_never_broken_over_lines():
    line = "lightning compare " + " ".join(f"system_{number}" for number in range(40))
    parser = CommandParser(prog="lightning compare", examples=[line], epilog="More words.")
    assert parser.format_help().endswith(f"\nMore words.\n\nexample:\n  {line}\n")
    assert "example" not in CommandParser(prog="lightning compare").format_help()
    assert with_examples("usage\n", ("a", "b")) == "usage\n\nexamples:\n  a\n  b\n"
