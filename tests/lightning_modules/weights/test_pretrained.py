"""Files of published weights: checked, read, and never executed."""

import hashlib
import pickle

import numpy as np
import pytest
import torch

from errors import InputError
from lightning_modules.weights.pretrained import read_pretrained
from lightning_modules.weights.published import PUBLISHED, Published

STATE = {"image_encoder.pos_embed": torch.arange(300_000.0).reshape(1, 300, 1000)}


def test_a_file_with_a_published_name_is_held_against_its_hash(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "sam.pth")
    digits = hashlib.sha256((tmp_path / "sam.pth").read_bytes()).hexdigest()[:6]
    monkeypatch.setitem(PUBLISHED, "vit_b", Published("sam.pth", digits))
    assert set(read_pretrained(tmp_path / "sam.pth")) == set(STATE)
    (tmp_path / "sam.pth").write_bytes((tmp_path / "sam.pth").read_bytes()[:1000])
    with pytest.raises(InputError, match="truncated or altered"):
        read_pretrained(tmp_path / "sam.pth")


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    class Payload:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save(STATE, tmp_path / "whole.pth")
    files = {
        "absent.pth": None,
        "pickle.pth": pickle.dumps(Payload(), protocol=2),
        "cut.pth": (tmp_path / "whole.pth").read_bytes()[:500],
        "cut.npz": b"PK\x03\x04 and no more",
        "text.pth": b"not weights at all",
        "hello.pth": b"hello",  # a broken pickle too: KeyError, and IndexError of the next
        "pickled.pth": b"\x80\x02.",
        "page.pth": b"<!DOCTYPE html>",
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1",
        "empty.pth": b"",
    }
    sentences = {}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            read_pretrained(tmp_path / name)
        sentences[name] = str(error.value)
        assert str(tmp_path / name) in sentences[name]
    assert [name for name in sentences if "could run code" in sentences[name]] == ["pickle.pth"]
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="no named tensors"):
        read_pretrained(tmp_path / "other.pth")


def test_npz_and_nested_state_dicts(tmp_path):
    np.savez(tmp_path / "vit.npz", **{"embedding/kernel": np.ones((1, 2), np.float32)})
    assert read_pretrained(tmp_path / "vit.npz")["embedding/kernel"].shape == (1, 2)
    torch.save({"model": STATE}, tmp_path / "swin.pth")
    assert set(read_pretrained(tmp_path / "swin.pth")) == set(STATE)
