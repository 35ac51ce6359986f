"""Distinguish the files of a benchmark, a sweep or a reproduction from those of the user."""

import json
import os
from pathlib import Path
from typing import Any

from errors import InputError
from outputs import Outputs, some

STATE = "state.json"
NAMES = ("plan.json", STATE, "results.csv", "trials.csv", "reproduction.json")
OTHERS = ("report.html", "tables/table-*", "tables/statistics-*", "configs/*/*.yaml")


def claim(folder: Path) -> None:
    """Refuse a folder whose files have a study's names but are not a study's.

    Files of an earlier version of this program, which kept no list of them, are listed now.

    Raises:
        InputError: when there are such files, naming them.
    """
    outputs = Outputs(folder, "--out")
    there = [name for name in NAMES if os.path.lexists(folder / name)]
    if not there or set(there) & set(outputs.listed()):
        return
    if not _is_study(folder):
        raise InputError(
            f"--out {folder} holds {some(there)}, which this program did not write and would "
            "overwrite: give another folder with --out."
        )
    found = [file for pattern in OTHERS for file in sorted(folder.glob(pattern))]
    outputs.adopt([*there, *(str(file.relative_to(folder)) for file in found)])


def _is_study(folder: Path) -> bool:
    """Whether a folder holds the state of a study's jobs, or the plan of a benchmark."""
    for name, key in ((STATE, "jobs"), ("plan.json", "cells")):
        try:
            held: Any = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(held, dict) and isinstance(held.get(key), dict | list):
            return True
    return False
