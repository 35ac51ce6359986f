"""The options that this project adds to LightningCLI's own."""

from pathlib import Path

import pytest
import yaml

import cli
from datamodules.layouts.case_files import MODALITIES
from studies.commands import apply
from studies.runs.checkpoint_settings import CheckpointSettings
from studies.runs.run import Run
from tests.conftest import ROOT


def test_the_files_of_one_patient_are_listed_among_the_options(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["predict", "--help"])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name in MODALITIES:
        (line,) = (line for line in lines if line.strip().startswith(f"--{name} {name.upper()}"))
        described = " ".join([line, lines[lines.index(line) + 1]])
        assert f"NIfTI file of one patient's {name}" in described


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_a_mistyped_setting_of_an_overlay_is_told_with_the_overlay(
    subcommand, tmp_path, monkeypatch, capsys
):
    model, data = (
        yaml.safe_load((ROOT / "experiments" / "dynunet.yaml").read_text())[name]
        for name in ("model", "data")
    )
    config = {"data": data, "seed_everything": 0}
    run = Run("dynunet", "abc", tmp_path)
    found = CheckpointSettings([Path("best.ckpt")], [{"model": model}], config, run, "")

    def find(line, runs_dir, resolve):
        line.configs = line.configs[1:]
        return found

    monkeypatch.setattr(apply, "find_checkpoints", find)
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("data: {batchsize: 2}")
    words = ["--config", "experiments/dynunet.yaml", "--config", "mine.yaml"]
    assert cli.main([subcommand, *words]) == 2
    sentence = "mine.yaml: there is no data.batchsize in"
    assert sentence in capsys.readouterr().err
    Path("mine.yaml").write_text("trainer: {max_epochs: 2}")
    config["data"] = {**data, "init_args": {"batchsize": 2}}  # of another version
    assert cli.main([subcommand, *words]) == 2
    assert "best.ckpt: there is no data.batchsize in" in capsys.readouterr().err
