"""Parser of command lines of ``fit`` that builds and runs nothing."""

import copy
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from studies.runs.planning import Planner
from studies.settings.command_line import CommandLine
from studies.training.lightning_cli import ExperimentCLI

# Whole numbers that a benchmark varies, and on which no other setting depends.
VARIED = ("seed_everything", "data.seed", "data.fold", "data.train_patients")


class FitParser(ExperimentCLI):
    """Resolve command lines of ``fit``; those that differ in a seed or so are parsed once."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], dict[str, Any]] = {}
        super().__init__("fit", CommandLine())

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse nothing yet."""
        self.config = Namespace(subcommand="fit", fit=Namespace(seed_everything=False))

    def before_instantiate_classes(self) -> None:
        """Resolve nothing yet."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def parse_fit(self, line: CommandLine) -> dict[str, Any]:
        """Return the resolved configuration of ``fit`` for a command line."""
        varied = {name: line.given(name)[1] for name in VARIED}
        numbers = {name: int(text) for name, text in varied.items() if _is_plain_number(text)}
        rest = [(name, words) for name, words in line.options if name not in numbers]
        config = self._parsed(CommandLine(line.configs, rest, line.contents))
        for name, number in numbers.items():
            settings = config["data"]["init_args"] if name.startswith("data.") else config
            if name.removeprefix("data.") not in settings:
                return self._parsed(line)  # which names the option that does not exist
            settings[name.removeprefix("data.")] = number
        return config

    def _parsed(self, line: CommandLine) -> dict[str, Any]:
        words = tuple(line.words())
        if words not in self.known:
            self.known[words] = super().parse_fit(line)
        return copy.deepcopy(self.known[words])


def _is_plain_number(text: str) -> bool:
    """Whether a parser reads a word as the number that it is: 010 would be octal."""
    return text.isdecimal() and str(int(text)) == text


def make_planner(runs_dir: Path) -> Planner:
    """Return a planner for commands that are not a training themselves."""
    return Planner(FitParser().parse_fit, runs_dir)
