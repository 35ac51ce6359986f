"""The counts and measurements of a dry run."""

import json
import statistics
from types import SimpleNamespace

import pytest
import torch

from errors import InputError
from studies.jobs import estimate
from studies.jobs.estimate import (
    Costs,
    Work,
    batch_seconds,
    cache_key,
    measure_apart,
    measurement_request,
    work_of,
)
from studies.jobs.measure import measure
from studies.runs.planning import Plan
from studies.settings.command_line import CommandLine
from tests.conftest import ROOT

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
    plan = Plan(line=CommandLine([]), config=config, data=data, run=None)
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
    assert work_of(job("fit", [16, 16, 16], shapes), trains=False) == Work(0, sum(seen), 2)
    assert work.patients == 3 * 2
    assert work_of(job("test", [16, 16, 16], shapes)).patients == 4


def test_a_job_takes_its_start_its_steps_its_windows_and_its_patients():
    cost = {"step": 2.0, "batch": 0.5, "forward": 0.25}
    assert Work(0, 0).seconds(cost) == estimate.START
    assert Work(4, 8).seconds(cost) - estimate.START == 4 * 2.5 + 8 * 0.25
    assert Work(0, 0, 3).seconds(cost) - estimate.START == pytest.approx(3 * estimate.PATIENT)


def test_start_and_patients_are_what_the_shipped_benchmarks_took():
    record = json.loads((ROOT / "speed" / "results" / "benchmark_dual_fusion.json").read_text())
    result = record["on idle cores, version 0.1"]
    took = {
        name.partition("-")[0]: s for name, s in result["jobs_seconds"].items() if "." not in name
    }
    tests = {name.partition("-")[0]: s for name, s in result["jobs_seconds"].items() if "." in name}
    trained = {
        one["system"]: 60 * one["training_minutes_without_stages"] for one in result["systems"]
    }
    starts = [took[name] - seconds for name, seconds in trained.items()]
    assert statistics.median(starts) == pytest.approx(estimate.START, abs=1.5)
    beside = tests["dynunet"] + tests["segresnet"] - tests["late_fusion"]
    patients = result["systems"][0]["held_out_phantoms"]
    assert beside == pytest.approx(estimate.START + patients * estimate.PATIENT, abs=3)


def test_validations_are_as_rare_as_they_are_asked_for():
    rare = job("fit", [16, 16, 16], [(16, 16, 16)])
    rare.plan.config["trainer"]["check_val_every_n_epoch"] = 2
    assert work_of(rare) == Work(3 * 5, 1, 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 8}, Work(8, 2, 2)),  # it ends in the second epoch, with a validation
        ({"max_steps": 100}, Work(3 * 5, 3, 3)),
        ({"max_steps": -1}, Work(3 * 5, 3, 3)),
        ({"max_steps": 8, "max_epochs": -1}, Work(8, 2, 2)),
        ({"max_steps": 8, "max_epochs": -1, "accumulate_grad_batches": 2}, Work(16, 4, 4)),
    ],
)
def test_steps_may_end_a_training(settings, expected):
    limited = job("fit", [16, 16, 16], [(16, 16, 16)])
    limited.plan.config["trainer"].update(settings)
    assert work_of(limited) == expected


def test_a_training_without_an_end_cannot_be_estimated():
    endless = job("fit", [16, 16, 16], [(16, 16, 16)])
    endless.plan.config["trainer"]["max_epochs"] = -1
    with pytest.raises(InputError, match=r"max_epochs -1 and no trainer\.max_steps"):
        work_of(endless)


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
    monkeypatch.setattr("studies.jobs.measure.peak_memory_gb", lambda: peak)
    monkeypatch.setattr("studies.jobs.measure.fastest", lambda *_: 1.0)
    assert measure(MODEL, [16, 16, 16], 1, "32-true", "cpu")["memory_gb"] == 1.5


def test_what_cannot_be_measured_says_so():
    request = measurement_request(job("fit", [16, 16, 16], []).plan)
    assert request["model"] == MODEL
    assert measure_apart(request, 1, limit=0.05) == "two steps and a start took more than 0 s"


def test_frozen_weights_are_measured_as_the_network_of_their_card(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the project's own weights are found from every folder
    model = measurement_request(with_model(weights="weights/fusion.ckpt", frozen="all").plan)
    cost = measure(model["model"], [16, 16, 16], 1, "32-true", "cpu")
    assert cost["step"] == 0
    assert cost["forward"] > 0
    assert cost["parameters"]["trained"] == 0


def with_model(**settings):
    """A training whose module has other settings."""
    made = job("fit", [16, 16, 16], [])
    init_args = {**MODEL["init_args"], **settings}
    made.plan.config = {**made.plan.config, "model": {**MODEL, "init_args": init_args}}
    made.run = SimpleNamespace(experiment="mine")
    made.plan.data.train_dataloader = lambda: SimpleNamespace(num_workers=1)
    return made


def optimizer(**settings):
    return {"class_path": "torch.optim.SGD", "init_args": settings}


def test_only_what_costs_otherwise_is_measured_again(monkeypatch):
    requests = []

    def measure_apart(*words):
        requests.append(words)
        return {"step": 1.0}

    monkeypatch.setattr(estimate, "measure_apart", measure_apart)
    costs = Costs(threads=3)
    for rate in (0.1, 0.2):
        cost = costs.of(with_model(optimizer=optimizer(lr=rate, weight_decay=rate), overlap=rate))
        assert cost == {"step": 1.0, "batch": 0.0}
    assert [threads for _, threads in requests] == [3]
    costs.of(with_model(optimizer=optimizer(lr=0.1, momentum=0.9)))  # one more state a weight
    costs.of(with_model(optimizer=optimizer(lr=0.1), size="base"))
    assert len(requests) == 3


def test_networks_of_stages_are_told_apart_and_their_rates_are_not():
    def fusion(stage):
        return cache_key({"model": {"init_args": {"backbones": [stage]}}})

    stages = ['{"size": "tiny", "lr": 1}', '{"size": "tiny", "lr": 2}', '{"size": "base", "lr": 1}']
    assert len({fusion(stage) for stage in stages}) == 2


def test_a_batch_is_timed_where_this_process_reads_it():
    class Loader(list):
        num_workers = 0

    assert batch_seconds(Loader([1, 2]), 1) > 0
    assert batch_seconds(Loader(), 1) == 0
    assert batch_seconds(SimpleNamespace(num_workers=2), 1) == 0  # beside the steps
