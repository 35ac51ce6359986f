"""Estimates of the cost of a study's jobs, for ``--dry-run``.

Included are the start of every process, the batches of a training (read and augmented), its
optimisation steps, every validation, and every test with its metrics. Each distinct network is
measured once on noise, with the threads that a job will have. Not included are the preparation of
the cohort, which is done by then, pictures, and early stopping, which lowers the cost.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from errors import InputError
from studies.jobs.graph import Job
from studies.runs.planning import Plan, architecture
from studies.runs.process import python_path
from studies.settings.trainer import choose_device

# Seconds on two idle cores, measured with version 0.1. Median of a job without its training:
START = 8.0
# Seconds of a scored patient without its windows. The tests of DynUNet and SegResNet together have
# as many windows as the test of their late fusion, but one more start and eight more patients.
PATIENT = 0.4
LIMIT = 120.0  # seconds for one model, its start and two steps together
BATCHES = 4  # number of batches that are timed
# Settings that never change the cost: trials that differ in these alone share a measurement.
COST_NEUTRAL = (
    *("lr", "weight_decay", "eps", "betas", "scheduler", "overlap", "postprocessing"),
    *("output_rate", "colour_rate", "output_bias"),
)


@dataclass(frozen=True)
class Work:
    """The computations of a job, counted.

    Args:
        steps: optimisation steps over all epochs.
        windows: forward passes in validation or test.
        patients: patients scored, over all validations or in the test.
    """

    steps: int
    windows: int
    patients: int = 0

    def seconds(self, cost: Mapping[str, Any]) -> float:
        """Return the duration in seconds, with the start of the process.

        Args:
            cost: seconds of a ``step``, of reading its ``batch``, and of a ``forward`` pass.
        """
        computed = self.steps * (cost["step"] + cost["batch"]) + self.windows * cost["forward"]
        return float(START + computed + self.patients * PATIENT)


def work_of(job: Job, *, trains: bool = True) -> Work:
    """Count the computations of a job; early stopping may lower them."""
    plan = job.plan
    if job.kind == "test":
        loader = plan.data.test_dataloader()
        cases = loader.dataset.cases
        if getattr(loader.dataset, "whole", False):
            return Work(0, sum(int(case.slices) for case in cases), len(cases))
        return Work(0, _windows(plan, loader), len(cases))
    trainer, loader = plan.config["trainer"], plan.data.val_dataloader()
    steps, epochs = _steps(trainer, len(plan.data.train_dataloader())) if trains else (0, 1)
    validations = max(1, epochs // int(trainer.get("check_val_every_n_epoch") or 1))
    return Work(
        steps, validations * _windows(plan, loader), validations * len(loader.dataset.cases)
    )


def _steps(trainer: Mapping[str, Any], batches: int) -> tuple[int, int]:
    """Return the numbers of batches and epochs of a training, counting an incomplete last epoch.

    Args:
        trainer: settings of the trainer.
        batches: number of batches in an epoch.

    Raises:
        InputError: when the training has no end.
    """
    limit, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
    if limit is not None and int(limit) >= 0:
        most = int(limit) * int(trainer.get("accumulate_grad_batches") or 1)
        if epochs is None or int(epochs) < 0:
            return most, math.ceil(most / max(1, batches))
        steps = min(int(epochs) * batches, most)
        return steps, math.ceil(steps / max(1, batches))
    if epochs is not None and int(epochs) < 0:
        raise InputError(
            f"A training with trainer.max_epochs {epochs} and no trainer.max_steps has no end that "
            "could be estimated: give one of them, or leave out --dry-run."
        )
    return int(epochs or 1) * batches, int(epochs or 1)


def _windows(plan: Plan, loader: Any) -> int:
    """Count the sliding windows, or in 2D the selected slices, of a loader's patients."""
    patch = list(plan.data.patch_size)
    overlap = float(plan.config["model"]["init_args"].get("overlap", 0.5))
    if len(patch) == 2:
        return sum(map(len, loader.dataset.selected))
    total = 0
    for case in loader.dataset.cases:
        total += math.prod(
            1
            if side <= width
            else math.ceil((side - width) / max(1, int(width * (1 - overlap)))) + 1
            for side, width in zip(case.shape, patch, strict=True)
        )
    return total


def measurement_request(plan: Plan) -> dict[str, Any]:
    """Return the request to `studies.jobs.measure` for a training, with random weights."""
    model = json.loads(architecture(plan))
    given = model["init_args"].get("weights")
    if "weights" in model["init_args"] and not str(given).startswith("{"):
        adapter = model["class_path"].endswith("SamAdapterModule")
        model["init_args"]["weights"] = "random" if adapter else None
    trainer = plan.config["trainer"]
    return {
        "model": model,
        "patch_size": list(plan.data.patch_size),
        "batch_size": plan.data.batch_size,
        "precision": str(trainer["precision"]),
        "device": choose_device(trainer["accelerator"]),
    }


def cache_key(request: Mapping[str, Any]) -> str:
    """Return a measurement's cache key: every setting that affects its cost."""

    def without(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("{"):  # the network of a stage
            return without(json.loads(value))
        if isinstance(value, Mapping):
            kept = {name: inner for name, inner in value.items() if name not in COST_NEUTRAL}
            return {name: without(inner) for name, inner in kept.items()}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(without(request), sort_keys=True)


def batch_seconds(loader: Any, threads: int) -> float:
    """Return the seconds to read a batch of a training; 0 if worker processes read it.

    Args:
        loader: the training's data loader.
        threads: processor threads of a job.
    """
    if loader.num_workers:
        return 0.0
    before, batches, found = torch.get_num_threads(), iter(loader), []
    torch.set_num_threads(threads)
    try:
        for _ in range(BATCHES):
            began = time.perf_counter()
            if next(batches, None) is None:
                break
            found.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return min(found, default=0.0)


class Costs:
    """Costs of jobs; each distinct network is measured once.

    Args:
        threads: processor threads of a job.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.measured: dict[str, dict[str, Any] | str] = {}
        self.batches: dict[int, float] = {}

    def of(self, job: Job) -> dict[str, Any] | str:
        """Return the result of `studies.jobs.measure` for a job's network, or why it failed.

        ``batch``, the seconds to read a batch of the job's own data, is added to it.
        """
        request, data = measurement_request(job.plan), job.plan.data
        key = cache_key(request)
        if key not in self.measured:
            print(f"measuring a step of {job.run.experiment}", flush=True)
            self.measured[key] = measure_apart(request, self.threads)
        if id(data) not in self.batches:
            self.batches[id(data)] = batch_seconds(data.train_dataloader(), self.threads)
        cost = self.measured[key]
        return cost if isinstance(cost, str) else {**cost, "batch": self.batches[id(data)]}


def measure_apart(
    request: dict[str, Any], threads: int, limit: float = LIMIT
) -> dict[str, Any] | str:
    """Run `studies.jobs.measure` in a process of its own; return the reason if that fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "studies.jobs.measure"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": str(threads)},
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"two steps and a start took more than {limit:.0f} s"
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
