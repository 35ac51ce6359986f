"""What a dry run counts and measures."""

from types import SimpleNamespace

import pytest
import torch

from studies.estimate import ask, question, work_of
from studies.measure import measure

MODEL = {
    "class_path": "lightning_modules.BackboneModule",
    "init_args": {
        "network": {"class_path": "backbones.SegResNet"},
        "size": "tiny",
        "loss": {"class_path": "monai.losses.DiceLoss", "init_args": {"sigmoid": True}},
    },
}


def loader(*shapes, slices):
    cases = [SimpleNamespace(shape=shape, slices=shape[-1]) for shape in shapes]
    flat = {"selected": [[0, 1, 2] for _ in shapes], "whole": True} if slices else {}
    return SimpleNamespace(dataset=SimpleNamespace(cases=cases, **flat))


def job(kind, patch, shapes):
    class Steps(list):
        pass

    data = SimpleNamespace(
        patch_size=patch,
        batch_size=2,
        train_dataloader=lambda: Steps(range(5)),
        val_dataloader=lambda: loader(*shapes, slices=len(patch) == 2),
        test_dataloader=lambda: loader(*shapes, *shapes, slices=len(patch) == 2),
    )
    trainer = {"max_epochs": 3, "precision": "32-true", "accelerator": "cpu"}
    config = {"model": MODEL, "trainer": trainer}
    plan = SimpleNamespace(data=data, config=config, stages={})
    return SimpleNamespace(kind=kind, plan=plan)


def test_windows_are_those_of_the_sliding_window():
    from monai.inferers import sliding_window_inference

    seen = []

    def count(patch):
        seen.append(len(patch))
        return patch

    shapes = [(20, 33, 16), (16, 16, 50)]
    for shape in shapes:
        sliding_window_inference(torch.zeros(1, 1, *shape), (16, 16, 16), 1, count, overlap=0.5)
    work = work_of(job("fit", [16, 16, 16], shapes))
    assert (work.steps, work.windows) == (3 * 5, 3 * sum(seen))
    assert work_of(job("test", [16, 16, 16], shapes)).windows == 2 * sum(seen)
    assert work_of(job("fit", [16, 16, 16], shapes), trains=False).windows == sum(seen)
    assert work.seconds({"step": 2.0, "forward": 0.5}) == 15 * 2 + work.windows / 2


def test_slices_are_counted_one_by_one():
    shapes = [(40, 40, 9), (40, 40, 11)]
    assert work_of(job("test", [64, 64], shapes)).windows == 2 * (9 + 11)
    assert work_of(job("fit", [64, 64], shapes)).windows == 3 * (3 + 3)  # the selected ones


def test_a_step_is_measured():
    cost = measure(MODEL, [16, 16, 16], 2, "32-true", "cpu")
    assert cost["step"] > 0
    assert cost["forward"] > 0
    assert cost["parameters"]["all"] == cost["parameters"]["trained"] > 0
    assert cost["memory_gb"] > 0.05
    weights = 4 * cost["parameters"]["all"]
    # best and last, and Adam's two moments of every weight (its step counts are a few bytes)
    assert cost["checkpoint_gb"] * 1e9 == pytest.approx(4 * weights, rel=0.02)


def test_memory_is_that_of_the_device_of_the_run(monkeypatch):
    peak = {"process": 1.5, "cuda:0": 0.0}  # a GPU is there, and not used
    monkeypatch.setattr("studies.measure.peak_memory_gb", lambda: peak)
    monkeypatch.setattr("studies.measure.fastest", lambda *_: 1.0)
    assert measure(MODEL, [16, 16, 16], 1, "32-true", "cpu")["memory_gb"] == 1.5


def test_what_cannot_be_measured_says_so():
    asked = question(job("fit", [16, 16, 16], []).plan)
    assert asked["model"] == MODEL
    assert ask(asked, limit=0.05) == "not measured in 0 s"
