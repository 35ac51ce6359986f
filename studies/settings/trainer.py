"""Settings of Lightning's trainer: device, precision, plugins, and those handled elsewhere."""

from collections.abc import Mapping
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from errors import InputError
from lightning_modules.base import TrainingModule
from lightning_modules.inference import choose_execution
from lightning_modules.weights.checkpoints import WholeCheckpoints


def choose_device(accelerator: str) -> str:
    """Return the kind of device, ``cuda`` or ``cpu``, for an accelerator setting."""
    use_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "cuda" if use_cuda else "cpu"


def precision_of_machine(accelerator: str) -> str:
    """Return the trainer's precision for this machine, from processor flags, not from timing."""
    execution = choose_execution(choose_device(accelerator))
    return "bf16-mixed" if execution.precision == "bf16" else "32-true"


def repeatability(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trainer's `deterministic` and `benchmark`, by its device where they are not given.

    On a processor a training repeats bit for bit. On CUDA it is as fast as it can be: operations
    without a fixed order of sums are allowed, and cuDNN tries out its kernels.
    """
    on_cuda = choose_device(settings.get("accelerator") or "auto") == "cuda"
    deterministic, benchmark = settings.get("deterministic"), settings.get("benchmark")
    if deterministic is None:
        deterministic = False if on_cuda else "warn"
    if benchmark is None and on_cuda:
        benchmark = not deterministic
    return {"deterministic": deterministic, "benchmark": benchmark}


def execution_of(trainer: L.Trainer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a training is computed, for its manifest: precision, devices, what repeats.

    Args:
        trainer: built for the training.
        settings: its settings, resolved.
    """
    return {
        "training": str(trainer.precision),
        "inference": choose_execution(trainer.strategy.root_device).to_dict(),
        "devices": trainer.world_size,
        **{name: settings.get(name) for name in ("deterministic", "benchmark", "compile")},
    }


def device_count(settings: dict[str, Any]) -> int:
    """Return the number of devices of a trainer with these settings, over all nodes."""
    devices = settings.get("devices", "auto")
    if devices in ("auto", -1, "-1"):
        on_gpu = choose_device(settings.get("accelerator", "auto")) == "cuda"
        count = torch.cuda.device_count() if on_gpu else 1
    elif isinstance(devices, list):
        count = len(devices)
    else:
        count = len(str(devices).split(",")) if "," in str(devices) else int(devices)
    return count * int(settings.get("num_nodes") or 1)


def with_whole_checkpoints(plugins: Any) -> list[Any]:
    """Return a trainer's plugins, with the writer of checkpoints unless another one is given."""
    given = list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins else []
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        return given
    return [*given, WholeCheckpoints()]


def hand_over_optimisation(model: TrainingModule, settings: dict[str, Any]) -> float | None:
    """Remove the trainer settings that a module which steps its own optimisers applies itself.

    Returns:
        The maximum norm of the gradients; None: no limit.

    Raises:
        InputError: when gradients are to be accumulated over batches, or clipped by value.
    """
    if (settings.get("accumulate_grad_batches") or 1) > 1:
        raise InputError(
            f"trainer.accumulate_grad_batches is {settings['accumulate_grad_batches']}, but "
            f"{type(model).__name__} steps several optimisers in turns: leave it out, and raise "
            "data.batch_size instead."
        )
    for limit in ("max_steps", "min_steps"):  # Lightning counts the steps of every optimiser
        if (settings.get(limit) or -1) > 0:
            settings[limit] *= model.steps_per_batch
    clip: float | None = settings.pop("gradient_clip_val", None)
    if settings.get("gradient_clip_algorithm") not in (None, "norm"):
        raise InputError(
            f"trainer.gradient_clip_algorithm is {settings['gradient_clip_algorithm']!r}: "
            f"{type(model).__name__} clips by norm."
        )
    chosen = settings.get("strategy", "auto")
    if chosen == "ddp" or (chosen == "auto" and device_count(settings) > 1):
        # each backward pass reaches half of the networks
        settings["strategy"] = "ddp_find_unused_parameters_true"
    return clip


def limit_of_steps(settings: dict[str, Any]) -> int | None:
    """Remove the limit of steps from a trainer's settings; `Ending` applies it.

    Raises:
        InputError: when the limit is below 1, or another setting forbids to stop there.
    """
    steps = settings.pop("max_steps", None)
    if steps in (None, -1):
        return None
    if steps < 1:
        raise InputError(f"trainer.max_steps is {steps}: expected 1 or more, or -1 for no limit.")
    for name in ("min_epochs", "min_steps"):
        if settings.get(name):
            raise InputError(
                f"trainer.max_steps and trainer.{name} may contradict each other: leave one out."
            )
    if settings.get("max_epochs") is None:
        settings["max_epochs"] = steps  # an epoch has one or more; Lightning's default is 1000
    return int(steps)
