"""Files that a command writes into a folder, never over a file of the user's.

Every file that a command writes is listed, with the hash of its content, in a ledger beside it,
before it gets its name. A file that is not listed, or whose content has changed since (a mask
corrected by hand), belongs to the user. The ledger is only ever appended to: a command that is
killed at any moment finds its own files again, and several processes can write at once.
"""

import json
import os
import time
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from errors import InputError
from files import Content, sha256_of, write_atomically

LEDGER = ".gliofuse.jsonl"
NAMED = 4  # files that a message names; the others are counted
OWN_FOLDER = "give a folder of its own"


class Outputs:
    """The files that a command writes into a folder.

    Args:
        folder: where they go.
        option: the option that names the folder, such as ``--output``.
        overwrite: whether `make_room` moves earlier files of this program aside that the user has
            changed since.
        can_overwrite: whether the command has an option for that.
    """

    def __init__(
        self, folder: Path, option: str, *, overwrite: bool = False, can_overwrite: bool = False
    ) -> None:
        self.folder = folder
        self.option = option
        self.overwrite = overwrite
        self.can_overwrite = can_overwrite

    def check(
        self,
        names: Iterable[str],
        inputs: Iterable[Path] = (),
        *,
        unlisted: bool = False,
    ) -> list[str]:
        """Refuse to overwrite the user's files, before the first file is written.

        Args:
            names: names of all files, relative to the folder.
            inputs: files that the command reads.
            unlisted: the folder's files were written before there was a ledger.

        Returns:
            Names that `make_room` has to move aside first; none without ``overwrite``.

        Raises:
            InputError: two files have one name, one lies outside the folder, is one that is read,
                or is there and was not written by this program.
        """
        wanted = list(names)
        self._refuse_strays(wanted)
        self._refuse_doubles(wanted)
        self._refuse_inputs(wanted, inputs)
        # The contents before the ledger: another process may be writing both at this moment.
        found = {name: _digest(self.folder / name) for name in dict.fromkeys(wanted)}
        listed = self.listed()
        there = {name: digest for name, digest in found.items() if digest is not None}
        foreign = [name for name in there if name not in listed]
        changed = [name for name in there if name in listed and there[name] not in listed[name]]
        if unlisted:
            foreign, changed = [], [*foreign, *changed]
        if foreign:
            raise InputError(
                f"{self.option} {self.folder} holds {_files(foreign)} that this program did not "
                f"write, and would be written over: give another {self.option}, or move "
                f"{_them(foreign)} away."
            )
        if changed and not self.overwrite:
            verb = "was" if len(changed) == 1 else "were"
            reason = f"that {verb} changed after this program wrote {_them(changed)}"
            if unlisted:
                reason = "of an earlier version of this program, which kept no list of its files"
            remedy = "--overwrite to move that aside" if self.can_overwrite else "move that away"
            raise InputError(
                f"{self.option} {self.folder} holds {_files(changed)} {reason}: give another "
                f"{self.option}, or {remedy}."
            )
        return changed

    def make_room(self, names: Sequence[str]) -> list[Path]:
        """Give files other names beside their places; return those."""
        kept = []
        for name in names:
            file = self.folder / name
            if os.path.lexists(file):
                kept.append(file.replace(unused(f"{file}.replaced")))
        return kept

    def write(self, name: str, content: Content) -> Path:
        """Write a file whole, listed before it gets its name.

        Args:
            name: relative to the folder.
            content: as for `files.write_atomically`.
        """
        path = self.folder / name
        write_atomically(path, content, before=lambda file: self._list(name, file))
        return path

    def settle(self, name: str, content: Content) -> Path:
        """Do as `write`, but keep a user's file of that name under another name beside it.

        For results at the end of long work, which a refusal would lose.
        """
        digest = _digest(self.folder / name)
        if digest is not None and digest not in self.listed().get(name, set()):
            for kept in self.make_room([name]):
                print(f"Note: {self.folder / name} was not as written: it is now {kept}.")
        return self.write(name, content)

    def adopt(self, names: Iterable[str]) -> None:
        """List files that are there as written by this program."""
        for name in names:
            if (self.folder / name).is_file():
                self._list(name, self.folder / name)

    def remove(self, name: str) -> None:
        """Remove a file if this program wrote it and it was not changed since."""
        if self.is_own(name):
            (self.folder / name).unlink(missing_ok=True)

    def is_own(self, name: str) -> bool:
        """Whether this program wrote a file as it is now."""
        return _digest(self.folder / name) in self.listed().get(name, set())

    def listed(self) -> dict[str, set[str]]:
        """Return the digests of all that was ever written into the folder, by name."""
        found: dict[str, set[str]] = {}
        try:
            lines = (self.folder / LEDGER).read_text(encoding="utf-8").splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                entry = json.loads(line)
                found.setdefault(str(entry["file"]), set()).add(str(entry["sha256"]))
            except (ValueError, TypeError, KeyError):
                continue  # half a line, of a process that was killed
        return found

    def strangers(self) -> list[Path]:
        """Return the files below the folder that the ledger does not list."""
        listed = {os.path.normpath(name) for name in self.listed()} | {LEDGER}
        return [
            file
            for file in sorted(self.folder.rglob("*"))
            if not file.is_dir() and str(file.relative_to(self.folder)) not in listed
        ]

    def _list(self, name: str, file: Path) -> None:
        # begun on a line of its own: a full disk may have cut the one before
        line = "\n" + json.dumps({"file": name, "sha256": _digest(file)}) + "\n"
        descriptor = os.open(
            self.folder / LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=0o666
        )
        try:
            os.write(descriptor, line.encode())  # one call: lines of two processes do not mix
        finally:
            os.close(descriptor)

    def _refuse_strays(self, names: Sequence[str]) -> None:
        """Refuse names that lead out of the folder, also through a link, or to a folder."""
        whole = self.folder.resolve()
        for name in names:
            file = self.folder / name
            parts = Path(name).parts
            inside = file.parent.resolve().is_relative_to(whole)
            if not parts or Path(name).is_absolute() or ".." in parts or not inside:
                raise InputError(
                    f"{name!r} would be written outside of {self.option} {self.folder}: rename the "
                    f"patient, or correct the pattern or the link that leads out of it."
                )
            above = (self.folder.joinpath(*parts[:count]) for count in range(1, len(parts)))
            blocked = next((path for path in above if path.exists() and not path.is_dir()), None)
            if file.is_dir() or blocked:
                raise InputError(
                    f"{self.option} {self.folder} holds {blocked or file}, where {name} is to be "
                    f"written: move that away, or give another {self.option}."
                )

    def _refuse_doubles(self, names: Sequence[str]) -> None:
        seen: dict[str, str] = {}
        for name in names:
            other = seen.get(alike(name))
            if other is not None:
                spelt = f" (the other as {other})" if other != name else ""
                raise InputError(
                    f"two results would be written to {self.folder / name}{spelt}: rename one of "
                    "the patients, or name the case in the pattern."
                )
            seen[alike(name)] = name

    def _refuse_inputs(self, names: Sequence[str], inputs: Iterable[Path]) -> None:
        """Refuse to write over an input, also through other names and links."""
        read = {key: path for path in inputs for key in _places(path)}
        for name in names:
            met = next((read[key] for key in _places(self.folder / name) if key in read), None)
            if met is not None:
                raise InputError(
                    f"{name} would be written over {met}, which is an input: {OWN_FOLDER} as "
                    f"{self.option}."
                )


def refuse_among_inputs(
    folder: Path, option: str, root: Path | None, inputs: Iterable[Path]
) -> None:
    """Refuse a folder of results that a later command would read as inputs.

    Args:
        folder: folder of the results.
        option: the option that names it.
        root: folder of the cohort, in which no result may lie.
        inputs: files and folders that are read, none of which may lie in the folder.

    Raises:
        InputError: naming both.
    """
    if root is not None and lies_in(folder, root):
        raise InputError(
            f"{option} {folder} lies in {root}, which holds the patients: what is written there "
            f"would be read as theirs the next time, so {OWN_FOLDER} outside of it."
        )
    for path in inputs:
        if any(lies_in(place.parent, folder) for place in (path, Path(os.path.realpath(path)))):
            raise InputError(
                f"{option} {folder} holds {path}, which is an input: {OWN_FOLDER} as {option}."
            )


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies below it, also through links and other spellings."""
    whole = Path(os.path.realpath(path))
    try:
        there = os.stat(folder)
    except OSError:
        return whole.is_relative_to(os.path.realpath(folder))
    for above in (whole, *whole.parents):
        try:
            if os.path.samestat(os.stat(above), there):
                return True
        except OSError:  # is to be made
            continue
    return False


def alike(name: str) -> str:
    """Return a name in the form that file systems compare which ignore case or accents."""
    return unicodedata.normalize("NFC", os.path.normpath(name)).casefold()


def unused(path: str) -> Path:
    """Return a free path: the given one with the time appended."""
    name = f"{path}-{time.strftime('%Y%m%d-%H%M%S')}"
    aside, number = Path(name), 1
    while os.path.lexists(aside):
        number += 1
        aside = Path(f"{name}-{number}")
    return aside


def some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _files(names: Sequence[str]) -> str:
    return f"the file {names[0]}" if len(names) == 1 else f"{len(names)} files ({some(names)})"


def _digest(file: Path) -> str | None:
    """Return the hash of a file's content; None where there is none, of a link its target."""
    if file.is_symlink():
        return f"link to {os.readlink(file)}"  # never written by this program
    try:
        return sha256_of(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}), so it is not written over: move it away."
        ) from error


def _places(path: Path) -> list[object]:
    """Return a file's identity: its real path, and its number on its disk where it exists."""
    found: list[object] = [alike(os.path.realpath(path))]
    try:
        there = os.stat(path)
        found.append((there.st_dev, there.st_ino))
    except OSError:
        pass
    return found
