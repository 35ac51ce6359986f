"""The parser of a command: no abbreviated options, and no value silently replaced."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import InputError


def at_home(text: str) -> Path:
    """Return a typed path with its ~ replaced, which a shell does not do after an equals sign."""
    return Path(text).expanduser()


def with_examples(text: str, examples: Sequence[str]) -> str:
    """Return the help of a command with example lines below it, never broken, to be copied."""
    if not examples:
        return text
    title = "example:" if len(examples) == 1 else "examples:"
    return "\n".join([text, title, *(f"  {line}" for line in examples), ""])


class CommandParser(argparse.ArgumentParser):
    """argparse's parser without abbreviations, which refuses an option with two values.

    Args:
        examples: command lines that the help ends with.
        **settings: as of `argparse.ArgumentParser`.
    """

    def __init__(self, *, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.examples = examples
        self.given: dict[str, Any] = {}
        for name in (None, "store"):
            self.register("action", name, _StoreOnce)

    def format_help(self) -> str:
        """Return argparse's help, and the examples below it."""
        return with_examples(super().format_help(), self.examples)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does.

        Raises:
            InputError: An option is given twice with different values, or an unknown one stands
                before a positional argument, which would be taken for its value.
        """
        self.given = {}
        found, rest = super().parse_known_args(args, namespace)
        words = [str(word) for word in args or ()]
        for action in self._get_positional_actions():
            value = getattr(found, action.dest, None)
            place = words.index(value) if value in words else 0
            before = words[place - 1] if place else ""
            if before.startswith("--") and "=" not in before and before in rest:
                raise InputError(
                    f"{before} {value} stands before the {action.dest}: name that first, as in "
                    f"`{self.prog} {action.dest.upper()} {before} {value}`."
                )
        return found, rest


class _StoreOnce(argparse.Action):
    """Store a value, and refuse a second, different one, of which argparse would keep the last."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Take the value of one occurrence."""
        given = parser.given if isinstance(parser, CommandParser) else {}
        if option_string and given.setdefault(self.dest, values) != values:
            raise InputError(
                f"{option_string} is given twice, {given[self.dest]} and {values}: leave one of "
                "them out."
            )
        setattr(namespace, self.dest, values)
