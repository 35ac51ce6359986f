"""Parser of command lines of ``fit`` that builds and runs nothing."""

import copy
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from studies.runs.planning import Planner
from studies.settings.command_line import CommandLine
from studies.training.lightning_cli import ExperimentCLI


class FitParser(ExperimentCLI):
    """Resolve command lines of ``fit``; equal ones are parsed once."""

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
        words = tuple(line.words())
        if words not in self.known:
            self.known[words] = super().parse_fit(line)
        return copy.deepcopy(self.known[words])


def make_planner(runs_dir: Path) -> Planner:
    """Return a planner for commands that are not a training themselves."""
    return Planner(FitParser().parse_fit, runs_dir)
