"""A data module of slices over tiny patients."""

import pytest

from datamodules import RegisteredSliceDataModule


@pytest.fixture
def module(cohort, tmp_path):
    """`module(**changes)`: a data module on the six tiny cases."""

    def make(**changes):
        options = {"root": str(cohort), "slice_size": 32, "num_workers": 0}
        options["cache_dir"] = str(tmp_path / "cache")
        data = RegisteredSliceDataModule(**{**options, **changes})
        data.prepare_data()
        return data

    return make
