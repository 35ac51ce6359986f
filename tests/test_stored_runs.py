"""Checkpoints and configurations written by an earlier version: commit add8619, schema 2."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules import BackboneModule, SliceBackboneModule
from lightning_modules.weights.checkpoints import KEY, build, load_module, read_card
from studies.runs.checkpoint_settings import check_preparation
from studies.runs.exposure import Exposure
from studies.settings.command_line import CommandLine
from studies.training.fit_parser import FitParser

STORED = Path(__file__).parent / "stored"
RUN = STORED / "akbar2022"  # of experiments/akbar2022.yaml, shrunken, after one epoch
BEST = RUN / "checkpoints" / "best.ckpt"
# Of WT, TC and ET in three voxels of a known image, in fp32; and their means over the image.
PROBABILITIES = [
    [0.31090620, 0.28053981, 0.45709935],
    [0.42168325, 0.31855959, 0.38153505],
    [0.50262636, 0.25859499, 0.32917586],
]
MEANS = [0.42660752, 0.49719614, 0.36896780]


def test_a_stored_checkpoint_predicts_what_it_did():
    model = load_module(BEST).eval()
    assert isinstance(model, BackboneModule)
    model.precision = "fp32"
    image = torch.sin(torch.arange(4 * 24**3).float()).reshape(1, 4, 24, 24, 24)
    found = model.probabilities(image)[0]
    assert torch.allclose(found[:, 4::8, 12, 12], torch.tensor(PROBABILITIES), atol=1e-4)
    assert torch.allclose(found.mean((1, 2, 3)), torch.tensor(MEANS), atol=1e-4)


def test_the_card_of_a_stored_checkpoint_still_means_the_same():
    card = read_card(BEST)
    model = load_module(BEST)
    again = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(again)
    assert again[KEY] == card
    check_preparation(card, {"spacing": 6.0, "normalisation": card["data"]["normalisation"]}, BEST)
    exposure = Exposure.of_card(card)
    assert sorted(exposure.trained) == card["split"]["train"]
    assert sorted(exposure.selected) == card["split"]["val"]


def test_the_card_of_a_stored_2d_checkpoint_rebuilds_its_model():
    card = json.loads((STORED / "swin_unet_card.json").read_text())
    model = build(card["model"])
    assert isinstance(model, SliceBackboneModule)
    model.on_load_checkpoint({KEY: card})
    assert list(model.regions) == card["regions"] == ["WT"]
    assert model.patch_size == (64, 64)
    assert model.remarks() == ["training began from random weights"]
    again = {"state_dict": {}}
    model.on_save_checkpoint(again)
    assert again[KEY] == card


@pytest.mark.parametrize("part", ["model", "data", "trainer", "seed_everything"])
def test_a_stored_configuration_resolves_to_itself(part, tmp_path):
    stored = yaml.safe_load((RUN / "config.yaml").read_text())
    asked = tmp_path / "akbar2022.yaml"
    kept = {name: stored[name] for name in ("model", "data", "trainer", "seed_everything")}
    asked.write_text(yaml.safe_dump(kept))
    found = FitParser().resolve(CommandLine([str(asked)]))[part]
    assert options_of_then(found, stored[part]) == stored[part]


def options_of_then(found, stored):
    """Leave out options that came later: a stored configuration cannot name them."""
    if not isinstance(stored, dict) or not isinstance(found, dict):
        return found
    return {name: options_of_then(found[name], stored[name]) for name in stored}
