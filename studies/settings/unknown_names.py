"""Settings of experiments: one that nobody knows is told in a sentence, with the nearest known."""

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import yaml

from errors import InputError
from studies.settings.command_line import CommandLine
from studies.settings.option_help import BriefParser
from studies.settings.wrong_types import wrong_class, wrong_type

UNKNOWN = (  # how argparse and jsonargparse say it
    r"unrecognized arguments: --([^\s=]+)",
    r"(?:Subcommand|Group) '[^']+' does not accept option '([^']+)'",
    r"Option '([^']+)' is not accepted",
)
TOLD = re.compile(r"no setting '([^']+)', nearest '([^']*)', known '([^']*)'")
LISTED_AT_MOST = 40


class UnknownSettingError(InputError):
    """A setting that there is none of.

    Args:
        sentence: about it.
        key: as an option of the command line names it; empty where it stands in a file.
    """

    def __init__(self, sentence: str, key: str = "") -> None:
        super().__init__(sentence)
        self.key = key


class ExperimentParser(BriefParser):
    """Lightning's parser; names are written out, and of an unknown one it says the nearest.

    jsonargparse makes one for every class that a configuration names, so this one knows what each
    of them takes.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what jsonargparse does; of an unknown setting in words that `explain` reads."""
        for pattern in UNKNOWN:
            if found := re.match(pattern, message):
                known = _names(getattr(ex, "subcommand_parser", None) or self)
                name = found[1]
                if name not in known and (group := re.match(r"Group '([^']+)'", message)):
                    name = f"{group[1]}.{name}"
                listed = ", ".join(known) if len(known) <= LISTED_AT_MOST else ""
                message = f"no setting '{name}', nearest '{nearest(name, known)}', known '{listed}'"
                break
        super().error(message, ex)


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """Return what a parser takes."""
    names = [action.dest for action in parser._actions]
    return [
        name
        for name in names
        if "==" not in name
        and name.rpartition(".")[2] != "help"
        and not name.startswith("print_")  # of the parser itself, such as print_shtab
    ]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that somebody may have meant, empty where none is near.

    Args:
        name: as written, such as ``trainer.max_epoch``.
        known: all that there are.
    """
    known = list(known)
    group, dot, rest = name.rpartition(".")
    if dot:
        groups = list(dict.fromkeys(one.rpartition(".")[0] for one in known)) + known
        if group not in groups:
            closest = difflib.get_close_matches(group, groups, n=1)
            return f"{closest[0]}.{rest}" if closest else ""
        inside = [one.removeprefix(f"{group}.") for one in known if one.startswith(f"{group}.")]
        closest_rest = nearest(rest, inside)
        return f"{group}.{closest_rest}" if closest_rest else ""
    close = difflib.get_close_matches(name, known, n=1)
    longer = [one for one in known if name in one.split("_") or one.startswith(name)]
    return next(iter([*close, *longer]), "")


def explain(
    error: Exception, line: CommandLine, *, typed: bool, command: str = "fit"
) -> InputError:
    """Return what a parser refused, in one sentence.

    Args:
        error: of the parser.
        line: what it parsed.
        typed: whether a person typed the options, and did not write them into a file.
        command: whose options they are.
    """
    text = " ".join(str(error).split())
    found = TOLD.search(text)
    if found is None and (fault := wrong_class(text) or wrong_type(text)):
        path, *what = fault
        told = what[0] if len(what) == 1 else f"is {what[0]}: expected {what[1]}"
        option = next((one for one, _ in line.options if _plain(one) == path), "")
        file = next((one for one in reversed(line.configs) if _holds(line, one, path)), "")
        file = "" if option and typed else (file if file and not option else line.configs[0])
        place = f"{file}: " if file else ""
        shown = f"--{option}" if option and typed else option or path
        return InputError(f"{place}{shown} {told}.")
    if found is None:
        return InputError(text if typed else f"{line.configs[0]}: {text}")
    name, near, known = found.groups()
    above = re.findall(r"Parser key \"([^\"]+)\"", text[: found.start()])
    last = text[: found.start()].rpartition("Parser key")[2]  # of callables it names no class
    owner = re.search(r"class_path '([^']+)'", last)
    path = ".".join([*above, name])
    option = next((one for one, _ in line.options if _plain(one) == path), "")
    shown, place, dashes = option or path, "", "--" if option and typed else ""
    if not option:
        file = next((one for one in reversed(line.configs) if _holds(line, one, path)), "")
        place = f"{file}: " if file else ""
    sentence = f"{place}there is no {dashes}{shown}" + (f" in {owner[1]}" if owner else "")
    if near:
        sentence += f": the nearest is {dashes}{shown.removesuffix(name)}{near}."
    elif known:
        sentence += f": expected one of {known}."
    else:
        sentence += f": `lightning {command} --help` lists what there is."
    return UnknownSettingError(sentence, option)


@contextmanager
def placed(where: str, line: CommandLine) -> Iterator[None]:
    """Name the place of what is refused, unless it is an option of the command line.

    Args:
        where: it would stand, a file and an entry of it.
        line: of the command.
    """
    try:
        yield
    except InputError as error:
        if isinstance(error, UnknownSettingError) and error.key and line.has(error.key):
            raise
        raise InputError(f"{where}: {error}") from error


def _plain(name: str) -> str:
    return name.replace("init_args.", "").rstrip("+")


def _holds(line: CommandLine, file: str, path: str) -> bool:
    """Whether a configuration has a key, ``init_args`` left out."""
    try:
        content = line.content(file)
    except (InputError, OSError, ValueError, yaml.YAMLError):
        return False
    return _has(content, path.split("."))


def _has(content: Any, names: Sequence[str]) -> bool:
    """Whether there is something below names, in a list below those of any of its entries."""
    if not names:
        return True
    if isinstance(content, list):
        return any(_has(entry, names) for entry in content)
    if not isinstance(content, Mapping):
        return False
    if names[0] not in content:
        return _has(content.get("init_args"), names)
    return _has(content[names[0]], names[1:])
