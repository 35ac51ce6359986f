"""The help of a model's or data's options lists only the relevant classes."""

import importlib
from typing import get_type_hints

import lightning as L  # noqa: N812, the name its own documentation uses
import pytest
import yaml

import cli
from lightning_modules.base import TrainingModule
from studies.settings.option_help import RELEVANT_CLASSES, relevant_classes
from tests.conftest import ROOT


def imported(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("option", "shown", "not_shown"),
    [
        (
            ["--model.help", "lightning_modules.FusionModule"],
            [
                "--model.head",
                "fusion.DualFusionAttention",
                "monai.losses.DiceCELoss",
                "torch.optim.AdamW",
                "experiment files",
                "sliding window",
            ],
            ["torch.nn.", "torchmetrics", "backbones.", "known subclasses"],
        ),
        (
            ["--data.help", "datamodules.BraTSPatchDataModule"],
            ["--data.root", "Voxel edge in mm", "--data.drop"],
            ["torch.nn.", "known subclasses"],
        ),
    ],
)
def test_help_of_a_class_is_short_and_its_own(option, shown, not_shown, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["fit", *option])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    assert [text for text in shown if text not in words] == []
    assert [text for text in not_shown if text in words] == []
    assert len(printed.splitlines()) < 140


def test_help_names_what_the_experiments_use():
    for file in (ROOT / "experiments").glob("*.yaml"):
        model = (yaml.safe_load(file.read_text()) or {}).get("model")
        if model is None:
            continue
        assert model["class_path"] in relevant_classes(L.LightningModule)
        hints = get_type_hints(TrainingModule.__init__)
        hints |= get_type_hints(imported(model["class_path"]).__init__)
        for name, value in model["init_args"].items():
            if isinstance(value, dict) and "class_path" in value:
                assert value["class_path"] in relevant_classes(hints[name]), (file.name, name)


def test_what_help_names_exists():
    assert all(callable(imported(path)) for _, classes in RELEVANT_CLASSES for path in classes)
    assert relevant_classes(int) == ()
