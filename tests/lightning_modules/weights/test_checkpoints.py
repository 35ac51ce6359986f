"""Checkpoints on a full disk, and of killed processes."""

import errno
import tempfile
from pathlib import Path

import pytest
import torch

from lightning_modules.weights.checkpoints import WholeCheckpoints, is_whole, remove_leftovers

WRITER = WholeCheckpoints()


def test_nothing_is_written_elsewhere_first(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    target = tmp_path / "run" / "last.ckpt"
    WRITER.save_checkpoint({"epoch": 0}, target)
    WRITER.save_checkpoint({"epoch": 1}, str(target))
    assert WRITER.load_checkpoint(target, weights_only=True) == {"epoch": 1}
    assert [path.name for path in target.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    target = tmp_path / "last.ckpt"
    WRITER.save_checkpoint({"epoch": 0}, target)

    def half(path, content):
        with path.open("wb") as handle:
            handle.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="full"):
        WRITER.save_checkpoint({"epoch": 1}, target)
    assert WRITER.load_checkpoint(target, weights_only=True) == {"epoch": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_half_of_a_killed_process_is_removed(tmp_path):
    for name in ("last.ckpt", "last.damaged", ".best.ckpt.4711", ".last.ckpt.12"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "last.damaged"}
    remove_leftovers(tmp_path / "absent")


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, -1])
def test_a_piece_of_a_checkpoint_is_not_whole(tmp_path, left):
    file = tmp_path / "last.ckpt"
    assert not is_whole(file)
    WRITER.save_checkpoint({"weights": torch.zeros(1000), "epoch": 1}, file)
    assert is_whole(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    assert not is_whole(file)
