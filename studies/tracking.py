"""Weights & Biases around a run: always on, offline without a key, never a prompt."""

import netrc
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jsonargparse import Namespace

from studies.runs import Run


def has_key() -> bool:
    """Whether W&B could go online without asking: a key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def configure(trainer: Namespace, run: Run, plan: Any) -> None:
    """Point a W&B logger of the configuration at the run: folder, id, group, job type, mode.

    The experiment is the group, or the benchmark or sweep it is part of, and the stage the job
    type, so that a fusion and the backbones it stands on lie side by side on the dashboard.
    """
    logger = trainer.get("logger")
    if not isinstance(logger, Namespace) or not str(logger.class_path).endswith("WandbLogger"):
        return
    os.environ.setdefault("WANDB_MODE", "online" if has_key() else "offline")
    settings = logger.init_args
    settings.offline = os.environ["WANDB_MODE"] != "online"
    settings.save_dir = str(run.folder)
    # an agent of a W&B sweep waits for the run whose id it gave
    settings.id = settings.version = os.environ.get("WANDB_RUN_ID") or run.id
    settings.name = f"{run.experiment}-{run.id}"
    keywords = dict(logger.get("dict_kwargs") or {})
    keywords |= {
        "group": os.environ.get("WANDB_RUN_GROUP") or run.experiment,
        "job_type": str(plan.config["model"]["class_path"]).rpartition(".")[2],
        "config": plan.config,
        "resume": "allow",
    }
    logger.dict_kwargs = keywords


def configure_again(trainer: Namespace, run: Run, recalled: Any) -> None:
    """Point the logger of ``test`` at the training's run: its scores join that run's summary."""
    plan = SimpleNamespace(config=recalled.config)
    if run.folder.is_dir():
        configure(trainer, run, plan)
    else:  # a checkpoint that was moved away from its run
        trainer.logger = False


def tidy(loggers: Any) -> None:
    """Drop what Lightning passes to every W&B run and wandb only warns about since 0.31."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        getattr(logger, "_wandb_init", {}).pop("anonymous", None)


def folders(run: Run) -> list[str]:
    """Return W&B's folders of a run; a resumed offline run has more than one, with one run id."""
    return sorted(
        str(folder) for folder in (run.folder / "wandb").glob("*run-*") if folder.is_dir()
    )


def sync_hint(manifest: dict[str, Any]) -> str | None:
    """Return the command that brings an offline run to the dashboard, or None when it is there."""
    offline = [
        folder for folder in manifest.get("wandb", []) if Path(folder).name.startswith("offline")
    ]
    return "wandb sync " + " ".join(offline) if offline else None


def finish() -> None:
    """Close W&B's run, if one is open, so that its files are whole."""
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
