"""The options that this project adds to LightningCLI's own."""

import pytest

import cli
from datamodules.layouts import MODALITIES


def test_the_files_of_one_patient_are_listed_among_the_options(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", "--help"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name in MODALITIES:
        (line,) = (line for line in lines if line.strip().startswith(f"--{name} {name.upper()}"))
        told = " ".join([line, lines[lines.index(line) + 1]])
        assert f"NIfTI file of one patient's {name}" in told
