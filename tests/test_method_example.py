"""The worked examples of docs/add_a_method.md, a network and a fusion head, written and run."""

import importlib
import json
import re
import sys
from pydoc import locate

import pytest

import backbones
import cli
import fusion
from tests import test_network_contract as contract
from tests.conftest import ROOT, SHRUNKEN

SMALL = ["--config", str(SHRUNKEN), "--trainer.max_epochs", "1"]


def typed_in(title, package, module, folder, monkeypatch):
    """Write the files of a section, its Python file in a package; return its line of test."""
    text = (ROOT / "docs" / "add_a_method.md").read_text()
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    source, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (experiment,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    for path in (f"{package.__name__}/{module}.py", f"experiments/{named(experiment)}.yaml"):
        assert f"`{path}`" in section
    (folder / f"{module}.py").write_text(source)
    (folder / f"{named(experiment)}.yaml").write_text(experiment)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    return line


def named(experiment):
    return re.search(r"--config experiments/(\w+)\.yaml", experiment)[1]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The network of the example."""
    yield tmp_path, typed_in("A network", backbones, "residual_unet", tmp_path, monkeypatch)
    sys.modules.pop("backbones.residual_unet", None)


@pytest.fixture
def head_example(tmp_path, monkeypatch):
    """The fusion head of the example."""
    yield tmp_path, typed_in("A fusion head", fusion, "gated", tmp_path, monkeypatch)
    sys.modules.pop("fusion.gated", None)


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


def test_the_line_of_the_head_passes_the_contract(head_example):
    _, line = head_example
    added = eval(f"{{{line}}}", {"locate": locate})
    (head,) = added.values()
    for test in (
        contract.test_head_shapes,
        contract.test_head_takes_odd_and_unequal_sides_or_says_why_not,
        contract.test_head_gradient_reaches_every_weight,
        contract.test_head_runs_in_mixed_precision,
        contract.test_head_keeps_its_inputs,
        contract.test_head_state_dict_round_trip,
    ):
        test(head(contract.CHANNELS, 3, size="tiny"))


@pytest.mark.slow
def test_its_experiment_is_trained_tested_and_predicted_with(example, home):
    folder, _ = example
    config = ["--config", str(folder / "residual_unet.yaml")]
    assert cli.main(["fit", *config, *SMALL]) == 0
    (manifest,) = (home / "runs" / "residual_unet").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "finished"
    assert cli.main(["test", *config]) == 0
    assert (manifest.parent / "per_case.csv").is_file()
    assert cli.main(["predict", *config, "--output", "predictions-example"]) == 0
    assert list((home / "predictions-example").glob("*_seg.nii.gz"))


def test_the_experiment_of_the_head_is_trained_and_tested(head_example, trainings, home):
    for name in ("dynunet", "segresnet"):
        trainings.copy(trainings.trained(name), home)
    folder, _ = head_example
    config = ["--config", str(folder / "gated_fusion.yaml")]
    assert cli.main(["fit", *config, "--config", str(SHRUNKEN)]) == 0
    (manifest,) = (home / "runs" / "gated_fusion").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "finished"
    assert cli.main(["test", *config]) == 0
    assert (manifest.parent / "per_case.csv").is_file()
