"""Published weights: downloaded, resumed, checked, and never executed."""

import hashlib
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from errors import InputError
from lightning_modules.weights import pretrained
from lightning_modules.weights.pretrained import check_hash, official_sam, read_pretrained

STATE = {"image_encoder.pos_embed": torch.arange(300_000.0).reshape(1, 300, 1000)}


class Server(ThreadingHTTPServer):
    """Server of one file, with ranges, that records the requested bytes."""

    def __init__(self, content):
        self.content, self.ranges = content, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content, asked = self.server.content, self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *args):
        """Log nothing."""


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A file with an official name on a local server: (server, name, target path)."""
    torch.save(STATE, tmp_path / "made.pth")
    content = (tmp_path / "made.pth").read_bytes()
    name = f"sam_vit_b_{hashlib.sha256(content).hexdigest()[:6]}.pth"
    monkeypatch.setitem(pretrained.SAM_FILES, "vit_b", name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = Server(content)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, name, tmp_path / "torch" / "hub" / "checkpoints" / name
    server.shutdown()
    server.server_close()


def test_download_happens_once_and_reads_back(official):
    server, _, place = official
    file = official_sam("vit_b", server.url)
    assert file == place
    assert torch.equal(read_pretrained(file)["image_encoder.pos_embed"], next(iter(STATE.values())))
    assert official_sam("vit_b", server.url) == place
    assert server.ranges == [None]


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_a_cut_download_goes_on(official, share):
    server, _, place = official
    there = int(share * len(server.content))
    place.parent.mkdir(parents=True)
    place.with_suffix(".part").write_bytes(server.content[:there])
    assert official_sam("vit_b", server.url).read_bytes() == server.content
    assert server.ranges == [f"bytes={there}-"]
    assert not place.with_suffix(".part").exists()


def test_an_altered_download_is_refused_and_removed(official):
    server, name, place = official
    server.content = server.content[:-8] + b"altered!"
    with pytest.raises(InputError, match=f"not the official {name}"):
        official_sam("vit_b", server.url)
    assert not place.exists()
    assert not place.with_suffix(".part").exists()


def test_offline_names_url_place_and_the_way_to_go_on(official):
    _, name, place = official
    with pytest.raises(InputError) as error:
        official_sam("vit_b", "http://127.0.0.1:9/")
    for words in (f"http://127.0.0.1:9/{name}", str(place), "--model.weights random"):
        assert words in str(error.value)


def test_real_names_carry_their_hash():
    for name in pretrained.SAM_FILES.values():
        digits = name.removesuffix(".pth").rpartition("_")[2]
        assert len(digits) == 6
        int(digits, 16)


def test_truncated_official_file_is_refused_by_its_hash(official, tmp_path):
    server, name, _ = official
    file = tmp_path / name
    file.write_bytes(server.content[:1000])
    with pytest.raises(InputError, match="truncated or altered"):
        read_pretrained(file)
    file.write_bytes(server.content)
    check_hash(file)


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
    }
    sentences = {}
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            read_pretrained(tmp_path / name)
        sentences[name] = str(error.value)
        assert str(tmp_path / name) in sentences[name]
    assert "could run code" in sentences["pickle.pth"]
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="no named tensors"):
        read_pretrained(tmp_path / "other.pth")


def test_npz_and_nested_state_dicts(tmp_path):
    np.savez(tmp_path / "vit.npz", **{"embedding/kernel": np.ones((1, 2), np.float32)})
    assert read_pretrained(tmp_path / "vit.npz")["embedding/kernel"].shape == (1, 2)
    torch.save({"model": STATE}, tmp_path / "swin.pth")
    assert set(read_pretrained(tmp_path / "swin.pth")) == set(STATE)
