"""Two coarse phantom exams that the tests of registration share."""

from pathlib import Path

import pytest

from datamodules.phantom.simulation import generate_cohort


@pytest.fixture(scope="session")
def exams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two exams at 2.5 mm, read only."""
    out = tmp_path_factory.mktemp("exams")
    generate_cohort(out, 2, seed=5, layout="exam", spacing=2.5, progress=False)
    return out
