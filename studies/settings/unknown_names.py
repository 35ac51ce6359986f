"""Messages about settings that a parser refuses: unknown names and wrong values."""

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Union, get_args

import yaml
from jsonargparse import Namespace

from errors import InputError
from studies.settings.command_line import CommandLine
from studies.settings.option_help import BriefParser, type_of
from studies.settings.wrong_types import expected, import_path

PLACE = re.compile(r'Parser key "([^"]+)"')
UNKNOWN = re.compile(
    r"(?:unrecognized arguments: --|(?:Group '([^']+)' .* o|Subcommand .* o|O)ption ')([^\s=']+)"
)
LACKING = re.compile(r"the following arguments are required: ([\w., ]*\w)")
LISTED_AT_MOST = 40


class UnknownSettingError(InputError):
    """An unknown setting.

    Args:
        sentence: the message.
        key: name of the option; empty for a setting in a file.
    """

    def __init__(self, sentence: str, key: str = "") -> None:
        super().__init__(sentence)
        self.key = key


class RefusedError(argparse.ArgumentError):
    """An error of the innermost parser, which the parsers around it do not wrap."""

    parser: "ExperimentParser"  # of the class or command with the setting


class ExperimentParser(BriefParser):
    """Lightning's parser without abbreviated names; its errors carry the parser.

    jsonargparse makes one for every class that a configuration names, so the parser of an error
    has the settings of the class concerned.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})
        self.described: type | None = None

    def add_class_arguments(
        self, theclass: type, nested_key: str | None = None, *arguments: Any, **settings: Any
    ) -> list[str]:
        """Add the arguments of a class, and store the class that the whole parser describes."""
        if nested_key is None:
            self.described = theclass
        added: list[str] = super().add_class_arguments(theclass, nested_key, *arguments, **settings)
        for action in self._actions:
            if action.dest in added:
                _whole_numbers_first(action)
        return added

    def validate(self, namespace: Namespace, *arguments: Any, **settings: Any) -> None:
        """Check all values, null too, which jsonargparse takes for a setting that is not given."""
        super().validate(namespace, *arguments, **settings)
        for action in self._actions:
            wanted = "" if action.default is None else expected(type_of(action))
            null = action.dest in namespace and namespace[action.dest] is None
            if null and wanted and "null" not in wanted.split(" or "):
                raise TypeError(f'Parser key "{action.dest}": expected {wanted}')

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error of the innermost of nested parsers, which is the most specific."""
        if self.exit_on_error or any(isinstance(one, RefusedError) for one in _causes(ex)):
            super().error(message, ex)
        refused = RefusedError(None, message)
        refused.parser = getattr(ex, "subcommand_parser", None) or self
        raise refused from ex

    def names(self) -> list[str]:
        """Return the names of all settings."""
        names = [action.dest for action in self._actions]
        return [
            name
            for name in names
            if "==" not in name
            and name.rpartition(".")[2] != "help"
            and not name.startswith("print_")  # options of the parser itself, such as print_shtab
        ]


def _whole_numbers_first(action: argparse.Action) -> None:
    """Let a setting that takes whole numbers and others read 1 as whole: 1 batch, not 1.0 of all.

    Python keeps one object for Optional[Union[int, float]] and Optional[Union[float, int]], that
    of the package imported first, and jsonargparse takes the first type that fits.
    """
    types = get_args(getattr(action, "_typehint", None))
    if float in types and int in types[types.index(float) :]:
        action._typehint = Union[(int, *(one for one in types if one is not int))]  # type: ignore[attr-defined]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name nearest to a mistyped one; empty where none is near.

    Args:
        name: name as written, such as ``trainer.max_epoch``.
        known: all known names.
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
    """Return the error of a parser as one sentence.

    Args:
        error: error of the parser.
        line: the command line that it parsed.
        typed: whether the options were typed, not read from a file.
        command: the command with these options.
    """
    text = " ".join(str(error).split())
    refused = next((one for one in _causes(error) if isinstance(one, RefusedError)), None)
    raw = InputError(text if typed else f"{line.configs[0]}: {text}")
    if refused is None:
        return raw
    words = " ".join(str(refused).split())
    unknown = UNKNOWN.match(words)
    name = ".".join(filter(None, unknown.groups())) if unknown else ""
    around = PLACE.findall(text.partition(words)[0])
    path = ".".join([*around, *([name] if name else PLACE.findall(words)[:1])])
    option, value = line.given(path)
    file, value = ("", value) if option else _written(line, path)
    dashes = "--" if option and typed else ""
    if name:
        place = f"{file}: " if file else ""
        shown = f"{dashes}{option or path}"
        sentence = _no_setting(refused.parser, name, shown, command)
        return UnknownSettingError(f"{place}{sentence}", option)
    fault = _fault(refused, path, value) if option or file else ""
    if not fault:
        return raw
    file = "" if dashes else file or line.configs[0]
    place = f"{file}: " if file else ""
    return InputError(f"{place}{f'--{option}' if dashes else path} {fault}.")


def _no_setting(parser: ExperimentParser, name: str, shown: str, command: str) -> str:
    known = parser.names()
    owner = f" in {import_path(parser.described)}" if parser.described else ""
    instead = f"`lightning {command} --help` lists what there is"
    if near := nearest(name, known):
        instead = f"the nearest is {shown.removesuffix(name)}{near}"
    elif len(known) <= LISTED_AT_MOST:
        instead = f"expected one of {', '.join(known)}"
    return f"there is no {shown}{owner}: {instead}."


def _fault(refused: RefusedError, path: str, value: Any) -> str:
    """Return what is wrong with a value; empty where only the parser's message is known."""
    parser, words = refused.parser, str(refused)
    if lacking := LACKING.search(words):
        kind = import_path(parser.described) if parser.described else value
        return f"is {kind} and lacks {lacking[1]}: give each a value, as --{path}.NAME"
    *_, cause = _causes(refused)
    if type(cause) in (ModuleNotFoundError, AttributeError):
        return f"is {value}, which cannot be imported ({cause}): correct the path"
    hints = {action.dest: type_of(action) for action in parser._actions}
    wanted = expected(hints.get("".join(PLACE.findall(words)[:1])))
    return f"is {value}: expected {wanted}" if wanted else ""


@contextmanager
def placed(where: str, line: CommandLine) -> Iterator[None]:
    """Prefix an error about a setting with its place, unless it is an option.

    Args:
        where: the place: a file and an entry of it.
        line: command line with the options.
    """
    try:
        yield
    except InputError as error:
        if isinstance(error, UnknownSettingError) and error.key and line.has(error.key):
            raise
        raise InputError(f"{where}: {error}") from error


def _written(line: CommandLine, path: str) -> tuple[str, Any]:
    """Return the last file that has a setting, and its value or class there."""
    for file in reversed(line.configs):
        try:
            content = line.content(file)
        except (InputError, OSError, ValueError, yaml.YAMLError):
            continue
        for value in _below(content, path.split(".")):
            return file, value
    return "", None


def _below(content: Any, names: Sequence[str]) -> Iterator[Any]:
    """Yield the values at a path, in every entry of a list; of a class its path."""
    if not names:
        yield content.get("class_path", content) if isinstance(content, Mapping) else content
    elif isinstance(content, list):
        for entry in content:
            yield from _below(entry, names)
    elif isinstance(content, Mapping):
        if names[0] in content:
            yield from _below(content[names[0]], names[1:])
        else:
            yield from _below(content.get("init_args"), names)
