"""What a study will cost, from one measured step of every distinct model: ``--dry-run``."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from studies.arguments import ROOT
from studies.jobs import Job
from studies.stages import Plan, architecture
from studies.training import choose_device

LIMIT = 120.0  # seconds for one model, its start and two steps together


@dataclass(frozen=True)
class Work:
    """How much a job computes.

    Args:
        steps: of optimisation, over all epochs.
        windows: that pass forward in validation or test.
    """

    steps: int
    windows: int

    def seconds(self, cost: dict[str, Any]) -> float:
        """Return how long it takes at a measured cost."""
        return float(self.steps * cost["step"] + self.windows * cost["forward"])


def work_of(job: Job, *, trains: bool = True) -> Work:
    """Return how much a job computes; early stopping may make it less."""
    plan = job.plan
    if job.kind == "test":
        loader = plan.data.test_dataloader()
        if getattr(loader.dataset, "whole", False):
            return Work(0, sum(int(case.slices) for case in loader.dataset.cases))
        return Work(0, _windows(plan, loader))
    epochs = int(plan.config["trainer"].get("max_epochs") or 1) if trains else 1
    windows = epochs * _windows(plan, plan.data.val_dataloader())
    return Work(epochs * len(plan.data.train_dataloader()), windows)


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
    """Return what `studies.measure` is asked about a training, networks with random weights."""
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


def ask(asked: dict[str, Any], limit: float = LIMIT) -> dict[str, Any] | str:
    """Measure one step in a process of its own; return why not where that fails."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "studies.measure"],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=limit,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"not measured in {limit:.0f} s"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"not measured ({last})"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_estimate(jobs: Sequence[Job]) -> None:
    """Print the jobs of a study as a table, with what each will cost."""
    costs: dict[str, dict[str, Any] | str] = {}
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("job", "needs", "done", "parameters", "trained", "memory", "disk", "time"):
        left = header in ("job", "needs", "done")
        table.add_column(header, justify="left" if left else "right", no_wrap=not left)
    seconds, disk, unknown = 0.0, 0.0, 0
    for job in jobs:
        name = f"{job.run.experiment} {job.run.id}"
        if job.kind == "test":
            name = f"  test {job.variant}".rstrip()
        needs = ", ".join(stage.run.experiment for stage in job.plan.stages.values())
        needs = needs if job.kind == "fit" else ""
        if job.finished():
            table.add_row(name, needs, "yes", *[""] * 5)
            continue
        asked = question(job.plan)
        key = json.dumps(asked, sort_keys=True)
        if key not in costs:
            print(f"measuring a step of {job.run.experiment}", flush=True)
            costs[key] = ask(asked)
        cost = costs[key]
        if isinstance(cost, str):
            unknown += 1
            table.add_row(name, needs, "no", *[""] * 4, cost)
            continue
        takes = work_of(job, trains=cost["step"] > 0).seconds(cost)
        seconds += takes
        if job.kind == "test":
            table.add_row(name, needs, "no", "", "", "", "", _duration(takes))
            continue
        disk += cost["checkpoint_gb"]
        counts = cost["parameters"]
        sizes = [f"{cost['memory_gb']:.1f} GB", f"{cost['checkpoint_gb']:.2f} GB"]
        numbers = [f"{counts['all']:,}", f"{counts['trained']:,}"]
        table.add_row(name, needs, "no", *numbers, *sizes, _duration(takes))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(
        f"Together {_duration(seconds)} one after another and {disk:.2f} GB. An estimate: steps x "
        "epochs from one measured step on noise, validation and test from one forward pass x "
        "windows. Not measured: reading data, augmentation, metrics, pictures, the start of each "
        "process (some 10 s), and early stopping, which makes it less."
        + (f" {unknown} jobs could not be measured." if unknown else ""),
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
