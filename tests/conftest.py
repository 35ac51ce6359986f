"""Fixtures that more than one folder of tests needs."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("WANDB_MODE", "offline")  # a test never talks to a server
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real patients, or a skip: they are not part of the project."""
    folder = Path(os.environ.get("GLIOFUSE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "brats2021").is_dir():
        pytest.skip(f"no real patients at {folder}: set GLIOFUSE_TEST_DATA to their folder")
    return folder
