"""Measure an optimisation step of a model on noise: ``python -m studies.jobs.measure``.

It runs in a process of its own, so that the memory is this model's alone and a measurement that
takes too long can be stopped.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.layouts.case_files import MODALITIES
from errors import InputError
from lightning_modules.base import TrainingModule
from lightning_modules.contracts.settings import FitSettings
from lightning_modules.inference import windows_together
from lightning_modules.optimisation.kernels import arrange_weights
from lightning_modules.weights.checkpoints import build
from studies.runs.environment import peak_memory_gb

REPETITIONS, ENOUGH = 5, 20.0  # most repetitions; seconds after which they stop


def measure(
    model: dict[str, Any], patch_size: list[int], batch_size: int, precision: str, device: str
) -> dict[str, Any]:
    """Return the cost of one step and of one forward pass of a model.

    Args:
        model: class path and arguments, upstream networks by their architecture.
        patch_size: voxels or pixels along every axis.
        batch_size: patches in a step.
        precision: precision of the trainer.
        device: cpu or cuda.

    Returns:
        Seconds of a ``step`` of one batch and of a ``forward`` pass for each patch, ``memory_gb``,
        ``checkpoint_gb`` of best and last together, ``parameters``.
    """
    module = build(model)
    if not isinstance(module, TrainingModule):
        raise InputError(f"{model['class_path']} is no model of this project.")
    module.to(device)
    arrange_weights(module, device, precision)
    module.configure_for_fit(FitSettings(tuple(patch_size)))
    torch.manual_seed(0)
    image = torch.randn(batch_size, len(MODALITIES), *patch_size, device=device)
    mask = (torch.randn(batch_size, len(module.regions), *patch_size, device=device) > 1).float()
    batch = {"image": image, "mask": mask, "case_id": ["noise"] * batch_size}
    batch["slice_key"] = [str(index) for index in range(batch_size)]
    before = _bytes(module.state_dict())
    half = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision.split("-")[0])
    step, states = 0.0, 0
    if not module.has_nothing_to_train:
        optimizers = _optimizers(module.configure_optimizers())
        module.train()

        def train() -> None:
            with torch.autocast(device, half, enabled=half is not None):
                module.rehearse_step(batch, optimizers)

        step = fastest(train, device)
        states = sum(_bytes(optimizer.state_dict()) for optimizer in optimizers)
    module.eval()
    execution = module.execution
    together = windows_together(patch_size) if len(patch_size) == 3 else 1
    with execution.active():
        windows = execution.arrange(image[:1].expand(together, *image.shape[1:]))
        forward = fastest(lambda: module(windows), device) / together
    memory = peak_memory_gb()
    return {
        "step": step,
        "forward": forward,
        "memory_gb": memory["cuda:0" if device == "cuda" else "process"],
        "checkpoint_gb": (2 * _kept(module, before) + states) / 1e9,
        "parameters": module.parameter_counts(),
    }


def _optimizers(configured: Any) -> list[Any]:
    """Return the optimisers from the return value of ``configure_optimizers``."""
    if isinstance(configured, dict):
        return [configured["optimizer"]]
    if isinstance(configured, tuple):  # optimisers and their schedulers
        configured = configured[0]
    return list(configured) if isinstance(configured, list) else [configured]


def fastest(work: Callable[[], Any], device: str) -> float:
    """Return the seconds of the fastest of a few repetitions, least affected by other processes.

    The first one, which also allocates memory, decides only if it alone takes `ENOUGH`.
    """
    found: list[float] = []
    while len(found) < REPETITIONS and sum(found) < ENOUGH:
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found)


def _kept(module: TrainingModule, everything: int) -> int:
    """Return the bytes of weights in a checkpoint; an adapter's leaves out the frozen base."""
    frozen = sum(w.numel() * w.element_size() for w in module.parameters() if not w.requires_grad)
    return everything - frozen if hasattr(module, "base_hash") else everything


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(inner) for inner in value.values())
    return sum(_bytes(inner) for inner in value) if isinstance(value, list | tuple) else 0


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    print(json.dumps(measure(**json.load(sys.stdin))))
