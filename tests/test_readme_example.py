"""The worked example of README's "Add your own method", typed in and run."""

import importlib
import json
import re
import sys

import pytest

import backbones
import cli
from tests import test_network_contract as contract
from tests.conftest import ROOT, SHRUNKEN


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The blocks of the example; its Python file lies where README says, in `backbones`."""
    text = (ROOT / "README.md").read_text().split("## Add your own method")[1].split("\n## ")[0]
    module, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (experiment,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "basic_unet.py").write_text(module)
    (tmp_path / "basic_unet.yaml").write_text(experiment)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield tmp_path, line.strip()
    sys.modules.pop("backbones.basic_unet", None)


def test_its_network_keeps_the_contract(example):
    _, line = example
    module = importlib.import_module("backbones.basic_unet")
    name, _, value = line.rstrip(",").partition(": ")
    network = getattr(module, value)
    assert name == f'"{value}"'
    backbone = network(4, 3, size="tiny")
    image = contract.torch.randn(2, 4, 32, 32, 32)
    assert backbone.features(image).shape == (2, backbone.feature_channels, 32, 32, 32)
    contract.assert_every_weight_learns(backbone, backbone(image))


def test_its_experiment_is_trained_tested_and_predicted_with(example, in_workplace, capsys):
    folder, _ = example
    config = ["--config", str(folder / "basic_unet.yaml")]
    small = ["--config", str(SHRUNKEN), "--data.patch_size", "[48,32,32]", "--data.batch_size", "1"]
    assert cli.main(["fit", *config, *small, "--trainer.max_epochs", "1"]) == 0
    (manifest,) = (in_workplace / "runs" / "basic_unet").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "finished"
    assert cli.main(["test", *config]) == 0
    assert (manifest.parent / "per_case.csv").is_file()
    assert cli.main(["predict", *config, "--output", "predictions-basic"]) == 0
    assert list((in_workplace / "predictions-basic").glob("*_seg.nii.gz"))
