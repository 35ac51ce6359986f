"""The record of machine and versions in a run."""

from importlib import metadata

import pytest

from studies.runs import environment


@pytest.fixture
def installed(monkeypatch):
    """Set which packages are installed, at version 1."""

    def only(*names):
        def version(name):
            if name in names:
                return "1"
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(environment.metadata, "version", version)

    return only


def test_what_registers_the_data_is_named_where_it_is_installed(installed):
    installed("torch", "simpleitk")
    found = environment.versions()
    assert (found["torch"], found["monai"], found["simpleitk"]) == ("1", "absent", "1")
    installed("torch")
    assert "simpleitk" not in environment.versions()
