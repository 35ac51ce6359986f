"""Fixtures that more than one folder of tests needs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHRUNKEN = ROOT / "tests" / "conf" / "shrunken.yaml"
SHRUNKEN_SLICES = ROOT / "tests" / "conf" / "shrunken_slices.yaml"

os.environ["WANDB_MODE"] = "offline"  # a test never talks to a server
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real patients, or a skip: they are not part of the project."""
    folder = Path(os.environ.get("GLIOFUSE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "brats2021").is_dir():
        pytest.skip(f"no real patients at {folder}: set GLIOFUSE_TEST_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a researcher: his runs, and beside them a cache that all tests share."""
    folder = tmp_path_factory.mktemp("workplace")
    os.environ["GLIOFUSE_CACHE"] = str(folder / "cache")
    return folder


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The researcher's folder as the working directory."""
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """W&B reads the environment once a process, and is made to forget it here."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def without_wandb():
    """Leave W&B out of tests that train a lot and are about something else: it takes seconds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "disabled")
        yield
