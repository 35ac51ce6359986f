"""What a study will cost: ``--dry-run``.

Included are what every process needs to start, the batches of a training (read and augmented as in
it), its optimisation steps, every validation, and every test with its metrics. Each distinct
network is measured once on noise, with the threads that a job will have. Not included: preparing
the cohort, which is done by then, pictures, and early stopping, which makes it less.
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
from studies.settings.command_line import ROOT
from studies.settings.trainer import choose_device

# Seconds on two cores, from speed/results/benchmark_*.json. A job beside its training, the median:
START = 8.0
# A patient of a validation or a test beside the windows: the tests of DynUNet and of SegResNet
# together have the windows of that of their late fusion, and one start and eight patients more.
PATIENT = 0.4
LIMIT = 120.0  # seconds for one model, its start and two steps together
BATCHES = 4  # read to time one
# Settings that change no cost, whatever their values: such trials are measured together.
FREE = ("lr", "weight_decay", "eps", "betas", "scheduler", "overlap", "postprocessing")


@dataclass(frozen=True)
class Work:
    """How much a job computes.

    Args:
        steps: of optimisation, over all epochs.
        windows: that pass forward in validation or test.
        patients: that are scored, over all validations or in the test.
    """

    steps: int
    windows: int
    patients: int = 0

    def seconds(self, cost: Mapping[str, Any]) -> float:
        """Return how long it takes, start and all.

        Args:
            cost: seconds of a ``step``, of the ``batch`` before it, and of a ``forward`` pass.
        """
        computed = self.steps * (cost["step"] + cost["batch"]) + self.windows * cost["forward"]
        return float(START + computed + self.patients * PATIENT)


def work_of(job: Job, *, trains: bool = True) -> Work:
    """Return how much a job computes; early stopping may make it less."""
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
    """Return how many batches a training has, and in how many epochs, a begun one counted.

    Args:
        trainer: its settings.
        batches: of an epoch.

    Raises:
        InputError: when it has no end.
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
    """Return how many windows of a volume, or slices of a patient, a loader's patients have."""
    patch = list(plan.data.patch_size)
    overlap = float(plan.config["model"]["init_args"].get("overlap", 0.5))
    if len(patch) == 2:  # a validation looks at the selected slices alone
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


def question(plan: Plan) -> dict[str, Any]:
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


def distinct(asked: Mapping[str, Any]) -> str:
    """Return what tells measurements apart: all of a question but settings that change no cost."""

    def without(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("{"):  # the network of a stage
            return without(json.loads(value))
        if isinstance(value, Mapping):
            return {name: without(inner) for name, inner in value.items() if name not in FREE}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(without(asked), sort_keys=True)


def batch_seconds(loader: Any, threads: int) -> float:
    """Return how long a batch of a training takes to be read; 0 where other processes do it.

    Args:
        loader: of the training.
        threads: of the processor that a job will have.
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
    """What jobs cost; each distinct network is measured once.

    Args:
        threads: of the processor that a job will have.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.measured: dict[str, dict[str, Any] | str] = {}
        self.batches: dict[int, float] = {}

    def of(self, job: Job) -> dict[str, Any] | str:
        """Return what `studies.jobs.measure` found for a job's network, or why it failed.

        ``batch`` is added, the seconds that a batch of the job's own data takes to be read.
        """
        asked, data = question(job.plan), job.plan.data
        key = distinct(asked)
        if key not in self.measured:
            print(f"measuring a step of {job.run.experiment}", flush=True)
            self.measured[key] = ask(asked, self.threads)
        if id(data) not in self.batches:
            self.batches[id(data)] = batch_seconds(data.train_dataloader(), self.threads)
        cost = self.measured[key]
        return cost if isinstance(cost, str) else {**cost, "batch": self.batches[id(data)]}


def ask(asked: dict[str, Any], threads: int, limit: float = LIMIT) -> dict[str, Any] | str:
    """Measure one step in a process of its own; return why not where that fails."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "studies.jobs.measure"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"not measured in {limit:.0f} s"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"not measured ({last})"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
