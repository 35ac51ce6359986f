"""The worked example of docs/add_a_method.md, typed in and run."""

import importlib
import json
import re
import sys
from pydoc import locate

import pytest

import backbones
import cli
from tests import test_network_contract as contract
from tests.conftest import ROOT, SHRUNKEN

MODULE = "backbones.residual_unet"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The blocks of the example; its Python file lies where the page says, in `backbones`."""
    text = (ROOT / "docs" / "add_a_method.md").read_text()
    module, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (experiment,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "residual_unet.py").write_text(module)
    (tmp_path / "residual_unet.yaml").write_text(experiment)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield tmp_path, line
    sys.modules.pop(MODULE, None)


def test_its_line_passes_the_contract(example):
    _, line = example
    added = eval(f"{{{line}}}", {"locate": locate})
    (network,) = added.values()
    for test in (
        contract.test_backbone_shapes,
        contract.test_backbone_forward_is_head_of_features_and_leaves_the_features_alone,
        contract.test_backbone_gradient_reaches_every_weight,
        contract.test_backbone_refuses_other_modalities,
        contract.test_backbone_state_dict_round_trip,
    ):
        test(network(4, 3, size="tiny"))


def test_its_experiment_is_trained_tested_and_predicted_with(example, in_workplace):
    folder, _ = example
    config = ["--config", str(folder / "residual_unet.yaml")]
    small = ["--config", str(SHRUNKEN), "--trainer.max_epochs", "1"]
    assert cli.main(["fit", *config, *small]) == 0
    (manifest,) = (in_workplace / "runs" / "residual_unet").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "finished"
    assert cli.main(["test", *config]) == 0
    assert (manifest.parent / "per_case.csv").is_file()
    assert cli.main(["predict", *config, "--output", "predictions-example"]) == 0
    assert list((in_workplace / "predictions-example").glob("*_seg.nii.gz"))
