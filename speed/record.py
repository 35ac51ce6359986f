"""Results as JSON with where they come from, for scripts that run the program's own commands."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.runs.environment import git_revision, hardware, versions
from studies.settings.command_line import ROOT

CLI = [sys.executable, str(ROOT / "cli.py")]


def run_cli(words: Sequence[str], place: Path, name: str) -> None:
    """Run one of the program's commands in a folder; end this script where it fails.

    Args:
        words: the command's words after `lightning`.
        place: folder in which it runs.
        name: what the message calls it.
    """
    status = subprocess.run([*CLI, *words], cwd=place, check=False).returncode
    if status:
        sys.exit(f"{name} ended with status {status}: mend the cause, then repeat")


def write_record(out: Path, content: Mapping[str, Any]) -> None:
    """Write results as JSON with the hardware, versions and revision they were measured on."""
    origin = {"hardware": hardware(), "versions": versions(), "git": git_revision()}
    out.write_text(json.dumps({**content, **origin}, indent=2) + "\n")


def named_paths(words: Iterable[str]) -> list[tuple[str, Path]]:
    """Return name and path of every NAME=PATH."""
    return [(name, Path(path)) for name, _, path in (word.partition("=") for word in words)]
