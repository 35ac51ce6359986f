"""Reader of W&B's offline files: a LevelDB log of protobuf records (wandb 0.31)."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = b":W&B"
CHECKED = [zlib.crc32(bytes([kind])) for kind in range(5)]  # the checksum begins with the kind
FULL, FIRST, LAST = 1, 2, 4


@dataclass
class Stored:
    """One offline folder of a run."""

    folder: Path
    id: str = ""
    group: str = ""
    job_type: str = ""
    tags: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a table that was logged, files of pictures as ``path``.

        The file that the history names is a preview without pictures; the table is an artifact.
        """
        (logged,) = (row[name] for row in self.history if name in row)
        assert logged["_type"] == "table-file"
        entry = f"{name}.table.json"
        (files,) = (one["files"] for one in self.artifacts if entry in one["files"])
        content = json.loads(Path(files[entry]).read_text())
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        for row in rows:
            for value in row.values():
                if isinstance(value, dict):
                    value["path"] = files[value["path"]]
        return rows

    def artifact(self, name: str) -> dict[str, Any]:
        """Return the one artifact of a name."""
        (found,) = (artifact for artifact in self.artifacts if artifact["name"] == name)
        return found


def stored(run_folder: Path, patience: float = 20.0) -> list[Stored]:
    """Return every offline folder of a run that has W&B's file, in the order of their beginnings.

    W&B's service goes on writing for a moment after a run has finished: what has no end yet is read
    again, for so many seconds. A run that was killed never has one.
    """
    folders = sorted({file.parent for file in (run_folder / "wandb").glob("offline-run-*/*.wandb")})
    deadline = time.monotonic() + patience
    while True:
        found = [decode(folder) for folder in folders]
        if all(one.finished for one in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def decode(folder: Path) -> Stored:
    """Read one offline folder."""
    from wandb.proto import wandb_internal_pb2

    found = Stored(folder)
    (file,) = folder.glob("*.wandb")
    for content in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        _take(record, found)
    return found


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log whose first block begins with seven bytes of W&B's.

    The format: https://github.com/google/leveldb/blob/main/doc/log_format.md; the checksum is
    CRC-32 unmasked instead of CRC-32C. A file that a killed process left may end anywhere.
    """
    assert content[:4] == HEADER, content[:4]
    position, pending = 7, b""
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[position : position + 7])
        chunk = content[position + 7 : position + 7 + length]
        position += 7 + length
        if len(chunk) < length:
            return
        assert zlib.crc32(chunk, CHECKED[kind]) == checksum, f"damaged at {position}"
        pending = chunk if kind in (FULL, FIRST) else pending + chunk
        if kind in (FULL, LAST):
            yield pending


def _take(record: Any, found: Stored) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.id, found.group = record.run.run_id, record.run.run_group
        found.job_type, found.tags = record.run.job_type, set(record.run.tags)
        _update(found.config, record.run.config.update)
    elif kind == "config":
        _update(found.config, record.config.update)
    elif kind == "history":
        row: dict[str, Any] = {}
        _update(row, record.history.item)
        found.history.append(row)
    elif kind == "summary":
        _update(found.summary, record.summary.update)
    elif kind == "artifact":
        artifact = record.artifact
        files = {entry.path: entry.local_path for entry in artifact.manifest.contents}
        found.artifacts.append(
            {
                "name": artifact.name,
                "type": artifact.type,
                "files": files,
                "digest": artifact.digest,
                "used": artifact.use_after_commit,
            }
        )
    elif kind == "exit":
        found.finished = True


def _update(into: dict[str, Any], items: Any) -> None:
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        place = into
        for name in path:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
