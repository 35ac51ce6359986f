"""The command line: its experiment, overlays and options, and those that stages get."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from errors import InputError
from files import UniqueKeys

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = ROOT / "experiments" / "defaults.yaml"

UPSTREAM_MODEL_KEYS = ("model.size", "model.init_args.size")
UPSTREAM_KEYS = ("seed_everything", "runs_dir", "resume", "overwrite")
UPSTREAM_PREFIXES = ("data", "trainer")
SECTIONS = ("data", "model", "trainer")  # of a configuration file, with settings in each


@dataclass
class CommandLine:
    """The words after a subcommand, sorted into configuration files and options.

    Args:
        configs: values of ``--config`` in order: the experiment, then its overlays.
        options: every other option as (name without dashes, its words as typed).
        contents: settings that replace the files of this name in ``configs``: those of a
            checkpoint, and the part of an overlay that a command applies.
    """

    configs: list[str] = field(default_factory=list)
    options: list[tuple[str, list[str]]] = field(default_factory=list)
    contents: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: list[str]) -> "CommandLine":
        """Parse words of the forms ``--name value``, ``--name=value`` and ``--flag``."""
        line = cls()
        position = 0
        while position < len(words):
            taken = [words[position]]
            position += 1
            while position < len(words) and not words[position].startswith("-"):
                taken.append(words[position])
                position += 1
            if position < len(words) and _is_negative_number(words[position]):
                taken.append(words[position])
                position += 1
            name, _, value = taken[0].lstrip("-").partition("=")
            if name in ("config", "c") and (value or taken[1:]):
                line.configs += [value] if value else taken[1:]
            else:
                line.options.append((name, taken))
        return line

    def pop(self, name: str) -> list[str]:
        """Remove every occurrence of an option and return its values."""
        values: list[str] = []
        for found, words in self.options:
            if found == name:
                first = words[0].partition("=")[2]
                values += ([first] if first else []) + words[1:]
        self.options = [(found, words) for found, words in self.options if found != name]
        return values

    def given(self, path: str) -> tuple[str, str]:
        """Return the option that sets a setting or its class, and its value; empty if none does.

        Args:
            path: path of the setting, without ``init_args``.
        """
        for name, words in reversed(self.options):
            if name.replace("init_args.", "").removesuffix(".class_path").rstrip("+") == path:
                first = words[0].partition("=")[2]
                return name, " ".join([*filter(None, [first]), *words[1:]])
        return "", ""

    def has(self, name: str) -> bool:
        """Whether an option stands on the command line."""
        return any(found == name for found, _ in self.options)

    def expand_home(self, *names: str) -> None:
        """Replace ~ in the values of options, which a shell leaves behind an equals sign."""

        def expanded(word: str) -> str:
            name, equals, value = word.partition("=")
            if word.startswith("--"):
                return f"{name}{equals}{os.path.expanduser(value)}"
            return os.path.expanduser(word)

        self.options = [
            (name, [*map(expanded, words)] if name in names else words)
            for name, words in self.options
        ]

    def check(self) -> None:
        """Refuse a command line without an experiment, or with files that do not exist.

        Raises:
            InputError: naming what to add or to correct.
        """
        if not self.configs:
            raise InputError(
                "No experiment is given: add --config FILE, for instance "
                "--config experiments/fusion.yaml."
            )
        for file in self.configs:
            find_config(file)

    @property
    def experiment(self) -> str:
        """Stem of the experiment file.

        Raises:
            InputError: when no ``--config`` is given.
        """
        self.check()
        return Path(self.configs[0]).stem

    @property
    def overlays(self) -> list[str]:
        """Stems of the overlay files."""
        return [Path(file).stem for file in self.configs[1:]]

    def words(self) -> list[str]:
        """Return the words for a parser: configurations first, as file paths or YAML text."""
        given = [self._config_word(name) for name in self.configs]
        return [word for one in given for word in ("--config", one)] + self._option_words()

    def _config_word(self, name: str) -> str:
        if name in self.contents:
            return yaml.safe_dump(dict(self.contents[name]), sort_keys=False)
        return str(find_config(name))

    def content(self, name: str) -> Any:
        """Return the settings of one of ``configs``.

        Raises:
            InputError: as `read_settings`.
        """
        return self.contents[name] if name in self.contents else read_settings(name)

    def typed(self) -> list[str]:
        """Return the command line as it was typed, configuration files first."""
        files = [word for file in self.configs for word in ("--config", file)]
        return files + self._option_words()

    def _option_words(self) -> list[str]:
        return [word for _, words in self.options for word in words]

    def upstream(self, experiment_file: str) -> "CommandLine":
        """Return the command line that trains an upstream stage of this one.

        It keeps overlays, ``data.*``, ``trainer.*`` and the seed; of ``model.*`` only the size.
        """
        kept = [
            (name, words)
            for name, words in self.options
            if name.partition(".")[0] in UPSTREAM_PREFIXES
            or name in UPSTREAM_KEYS
            or name in UPSTREAM_MODEL_KEYS
        ]
        return CommandLine([experiment_file, *self.configs[1:]], kept)


def _is_negative_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def add_dry_run(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--dry-run``, also spelled ``--dry_run`` like the options of a training."""
    parser.add_argument("--dry-run", action="store_true", help=purpose)
    parser.add_argument("--dry_run", action="store_true", help=argparse.SUPPRESS)


def find_config(name: str) -> Path:
    """Find a configuration file in the working directory or in the project.

    Raises:
        InputError: when it is in neither, or is not text.
    """
    found = find_file(name)
    if not found.is_file():
        raise InputError(
            f"There is no configuration file {name}, neither here ({Path.cwd()}) nor in the "
            "project: see the folder experiments/ for those that exist."
        )
    try:
        found.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text in UTF-8 ({error}): save it so.") from error
    return found.resolve()


def find_file(name: str) -> Path:
    """Return the path of a file as given or, where only the project has it, in the project."""
    given = Path(name).expanduser()
    return given if given.is_file() or not (ROOT / given).is_file() else ROOT / given


def read_settings(file: str) -> dict[str, Any]:
    """Return the content of a configuration file.

    Raises:
        InputError: when it is not YAML with keys, a key stands twice, or one of model, data and
            trainer holds no settings.
    """
    try:
        content = yaml.load(find_config(file).read_text(encoding="utf-8"), UniqueKeys)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{file} is no YAML, mend it: {' '.join(str(error).split())}") from error
    if not content or not isinstance(content, dict):
        raise InputError(f"{file} holds no keys such as model, data and trainer: see experiments/.")
    for name in SECTIONS:
        if name in content and not isinstance(content[name], dict | str):
            raise InputError(
                f"{file} has {content[name]!r} under {name}: expected settings, each on a line of "
                "its own and further in."
            )
    return content
