"""Trainings resolved: the files of their weights, and models built before their stages."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from datamodules.splits import Split
from errors import InputError
from studies.runs import planning
from studies.settings.command_line import CommandLine
from studies.training.fit_parser import FitParser
from tests.conftest import ROOT


def test_weights_are_those_of_this_folder_or_else_of_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.ckpt", "mine.pth"):
        (tmp_path / name).touch()
    adopted = SimpleNamespace(networks={"bundle": SimpleNamespace(checkpoint=Path("cached.ckpt"))})
    named = ["mine.ckpt", "weights/fusion.ckpt", "mine.pth", "absent.ckpt", "net.yaml"]
    plan = planning.Plan(None, {"model": {"backbones": named}}, None, None, adoption=adopted)
    found = {one: Path(one) for one in ("mine.ckpt", "absent.ckpt")}
    found |= {"weights/fusion.ckpt": ROOT / "weights/fusion.ckpt"}
    found |= {"bundle": Path("cached.ckpt")}
    assert plan.checkpoints() == found
    assert plan.weights() == {**found, "mine.pth": Path("mine.pth")}


class Data:
    patch_size = (16, 16, 16)
    split = Split(["p1"], ["p2"], ["p3"])
    notices: ClassVar[list[str]] = []

    def identity(self):
        return {}

    fingerprint = identity


def planned(tmp_path, line):
    planner = planning.Planner(FitParser().parse_fit, tmp_path)
    planner.prepare_cohort = lambda _: Data()
    return planner.plan(CommandLine.parse(line.split()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.head.init_args.parts []", "without any part"),
        (
            "--model.head.init_args.parts [global] --model.head.init_args.attention none",
            "without any part",
        ),
    ],
)
def test_a_head_that_cannot_be_built_is_refused_before_its_stages(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        planned(tmp_path, f"--config experiments/fusion.yaml {options}")


def test_so_is_a_patch_that_no_network_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(Data, "patch_size", (16, 16, 17))
    with pytest.raises(InputError, match="`patch_size` to 16 x 16 x"):
        planned(tmp_path, "--config experiments/late_fusion.yaml")


@pytest.mark.parametrize(
    "experiment", ["fusion", "early_fusion", "late_fusion", "zhang2021_transition"]
)
def test_building_it_takes_no_random_number(tmp_path, experiment):
    before = torch.random.get_rng_state()
    planned(tmp_path, f"--config experiments/{experiment}.yaml")
    assert torch.equal(torch.random.get_rng_state(), before)
