"""A record of the inputs behind a folder's results, so that other results never overwrite them."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from outputs import LEDGER, Outputs, unused
from studies.runs.run import set_aside

NAMED = 4  # differences that a message names; the others are counted
UNSET = "None"  # how a setting that is not given stands in a record


@dataclass(frozen=True)
class InputRecord:
    """A file in a folder of results that records the inputs they were made from.

    Args:
        file: path of the record.
        result: name of a file that the folder contains if it holds results.
        inputs: the inputs that determine the results, by name, as a user writes them.
    """

    file: Path
    result: str
    inputs: Mapping[str, str]

    def others(self) -> str | None:
        """Describe other results in the folder; None where it is empty or has the same inputs.

        Raises:
            InputError: when the record cannot be read.
        """
        try:
            held: Any = json.loads(self.file.read_text())
        except FileNotFoundError:
            if not (self.file.parent / self.result).exists():
                return None
            held = None
        except ValueError:
            held = None
        except OSError as error:
            raise InputError(
                f"{self.file} cannot be read ({error.strerror}): give another folder for the "
                "results."
            ) from error
        if not isinstance(held, dict):
            return f"a {self.result} that does not say of what it was made"
        if not set(held) & set(self.inputs):
            return f"a {self.file.name} of something else"
        # a setting that is newer than the record counts as unset there
        differing = [
            f"{name} {held.get(name, 'unset')} instead of {self.inputs.get(name, 'unset')}"
            for name in {**self.inputs, **held}
            if held.get(name, UNSET) != self.inputs.get(name, UNSET)
        ]
        more = [f"{len(differing) - NAMED} more"] if len(differing) > NAMED else []
        return "results of " + ", ".join([*differing[:NAMED], *more]) if differing else None

    def refuse_others(self, option: str, remedy: str = "", *, overwrite: bool = False) -> None:
        """Refuse a folder that holds other results.

        Args:
            option: the option that names the folder.
            remedy: what ``--overwrite`` does; empty where the command has no such option.
            overwrite: whether ``--overwrite`` is given.

        Raises:
            InputError: describing the results in the folder.
        """
        held = self.others()
        if held and not overwrite:
            ours = f", or --overwrite to {remedy}" if remedy else ""
            other = ours if self._is_own() else ", or move that away"
            raise InputError(
                f"{option} {self.file.parent} holds {held}: give another {option}{other}."
            )

    def _is_own(self) -> bool:
        """Whether this program wrote the results, so that they may be replaced."""
        listed = Outputs(self.file.parent, "").listed()
        return self.unlisted() or self.file.name in listed or self.result in listed

    def write(self) -> None:
        """Write the record."""
        text = json.dumps(dict(self.inputs), indent=2) + "\n"
        Outputs(self.file.parent, "").write(self.file.name, text)

    def unlisted(self) -> bool:
        """Whether the results are from an earlier version, which kept no list of its files."""
        if self.file.name in Outputs(self.file.parent, "").listed():
            return False
        try:
            held: Any = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return False
        return isinstance(held, dict) and bool(set(held) & set(self.inputs))

    def move_aside(self, used: Sequence[Path], also: Sequence[str] = ()) -> Path:
        """Move the results to a new folder beside theirs; return it.

        A folder without other files is renamed as a whole. Files of the user stay, and so does a
        link in place of the folder.

        Args:
            used: files and folders that the command still needs.
            also: names of results that no list contains, left by an earlier version.

        Raises:
            InputError: when a needed file lies in the folder, or the folder cannot be moved.
        """
        folder = self.file.parent.resolve()
        for path in used:
            if path.resolve().is_relative_to(folder):
                raise InputError(
                    f"--overwrite would move {folder} aside, and with it {path}, which is still "
                    "needed: give another folder for the results."
                )
        listed = Outputs(folder, "").listed()
        ours = {*listed, *also, self.file.name, self.result, LEDGER}
        try:
            if {_name(file, folder) for file in Outputs(folder, "").strangers()} <= ours:
                aside = set_aside(folder)
                folder.mkdir(exist_ok=True)
                return aside
            aside = unused(f"{folder}.replaced")
            for name in sorted(ours - {LEDGER}):
                if (folder / name).is_file():
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).rename(aside / name)
            return aside
        except OSError as error:  # a mount point, or no permission in the folder above
            raise InputError(
                f"{folder} cannot be moved aside ({error.strerror}): give another --output."
            ) from error


def _name(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder))


def check_writable(folder: Path, named: str, other: str = "folder") -> None:
    """Check before the work that its result can be written, and leave no file behind.

    Args:
        folder: folder of the results.
        named: the option that names the result, and its value.
        other: noun for what to give instead.

    Raises:
        InputError: with the reason.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):  # unnamed: several processes may check at once
            pass
    except OSError as error:
        raise InputError(
            f"{named} cannot be written ({error.strerror}): give another {other}."
        ) from error
