"""Checks of the file names that a layout gives to predicted masks."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from errors import InputError

CASE = "{case}"
DEFAULT = "{case}_seg.nii.gz"
EXAMPLE = '"{case}_seg.nii.gz"'
_FORBIDDEN = re.compile(r"[\x00-\x1f*?<>|\"\\]")  # by file systems, or part of a pattern


def pattern_fault(pattern: Any, images: Iterable[str]) -> str:
    """Return why a pattern does not give each case one NIfTI file of its own; empty if it does.

    Args:
        pattern: the pattern of the masks' names.
        images: the patterns of the images.
    """
    wrong = _wrong(pattern) if isinstance(pattern, str) else "is no text"
    if not wrong and CASE not in pattern:
        wrong = "has no {case}, so that all patients would share one file"
    if not wrong and re.search(r"[{}]", pattern.replace(CASE, "")):
        wrong = "has a placeholder other than {case}"
    if not wrong and _plain(pattern) in map(_plain, images):
        wrong = "is that of an image"
    return wrong


def check_name(name: str, case_id: str, layout: str) -> str:
    """Return the name of a patient's mask if it can be written below a folder of predictions.

    Raises:
        InputError: saying what is wrong with it.
    """
    wrong = _wrong(name)
    if wrong:
        raise InputError(
            f"the prediction of {case_id} would be called {name!r} by the layout {layout}, which "
            f"{wrong}: rename the case, or describe the cohort in a layout file whose prediction "
            f"is such as {EXAMPLE}."
        )
    return name


def _wrong(name: str) -> str:
    """Return why a mask cannot have this name, or a name of this pattern; empty if it can."""
    parts = PurePosixPath(name).parts
    if not name.strip():
        return "is empty"
    if not re.search(r"[^/]\.nii(\.gz)?$", name):
        return "ends neither in .nii nor in .nii.gz"
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name) or ".." in parts:
        return "leads out of the folder of predictions"
    if _FORBIDDEN.search(name):
        return "holds characters that no file name should have"
    if any(part.startswith(".") for part in parts):
        return "is that of a hidden file"
    return ""


def _plain(pattern: str) -> str:
    """Return a pattern as file systems that ignore case compare it."""
    return str(PurePosixPath(pattern)).casefold()
