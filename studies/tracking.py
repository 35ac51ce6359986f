"""Weights & Biases around a run: always on, offline without a key, never a prompt."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from datamodules.slices import RegisteredSliceDataModule
from lightning_modules.case_gallery import CaseGallery, log_cases
from studies.account import mode
from studies.artifacts import Source, log_files, log_papers, sources, use_sources
from studies.runs import Run
from studies.stages import Plan

GROUP = "GLIOFUSE_GROUP"  # a benchmark names its group in it; stages in the background inherit it
LOGGERS = ("RunLogger", "WandbLogger")


def describe(plan: Plan) -> dict[str, Any]:
    """Return how W&B files a training: ``group``, ``job_type``, ``tags``, ``about``.

    A benchmark is one group (``GLIOFUSE_GROUP``); otherwise all trainings of one study on one
    cohort are one, so that a fusion and its backbones lie side by side. The job type is what the
    module's class says: backbone, fusion, adapter or pretrain. A test joins its training's run.
    """
    study = "2d" if isinstance(plan.data, RegisteredSliceDataModule) else "3d"
    cohort, run, split = plan.data.fingerprint(), plan.run, plan.data.split
    module, _, name = str(plan.config["model"]["class_path"]).rpartition(".")
    return {
        "group": os.environ.get(GROUP)
        or os.environ.get("WANDB_RUN_GROUP")
        or f"{study}-{cohort[:8]}",
        "job_type": getattr(getattr(importlib.import_module(module), name), "job_type", "training"),
        "tags": [tag[:64] for tag in dict.fromkeys([study, run.experiment, *plan.line.overlays])],
        "about": {
            "experiment": run.experiment,
            "system": " + ".join([run.experiment, *plan.line.overlays]),
            "run": run.id,
            "study": study,
            "cohort": cohort,
            "seed": plan.config["seed_everything"],
            "patients": {part: len(getattr(split, part)) for part in ("train", "val", "test")},
            "built_from": [source.artifact for source in sources(plan)],
        },
    }


def configure(trainer: Namespace, run: Run, plan: Plan) -> None:
    """Point a W&B logger of the configuration at the run of a training."""
    if _logger(trainer) is not None:
        _configure(trainer, run, describe(plan), plan.config)


def configure_again(trainer: Namespace, run: Run, recalled: Any) -> None:
    """Point the logger of ``test`` at the training's run: its scores join that run's summary."""
    filed = run.manifest().get("tracking")
    if filed is None:  # a checkpoint that was moved away from its run
        trainer.logger = False
    elif _logger(trainer) is not None:
        _configure(trainer, run, {**filed, "tags": [*filed["tags"], "tested"]}, recalled.config)


def _logger(trainer: Namespace) -> Namespace | None:
    logger = trainer.get("logger")
    if isinstance(logger, Namespace) and str(logger.class_path).endswith(LOGGERS):
        return logger
    return None


def _configure(trainer: Namespace, run: Run, filed: dict[str, Any], config: dict[str, Any]) -> None:
    found, logger = mode(), trainer.logger
    if found == "disabled":
        trainer.logger = False
        return
    os.environ["WANDB_MODE"] = found
    settings = logger.init_args
    settings.offline = found == "offline"
    settings.save_dir = str(run.folder)
    # an agent of a W&B sweep waits for the run whose id it gave
    settings.id = settings.version = os.environ.get("WANDB_RUN_ID") or run.id
    settings.name = f"{run.experiment}-{run.id}"
    logger.dict_kwargs = {
        **dict(logger.get("dict_kwargs") or {}),
        **{name: filed[name] for name in ("group", "job_type", "tags")},
        "config": {**config, "gliofuse": filed["about"]},
        "resume": "allow",
    }


# -- what a run leaves there -----------------------------------------------------------------------


def conclude(wandb_run: Any, run: Run, built_from: list[Source]) -> list[str]:
    """Give W&B the summary of a finished training, its files, and whose files it was built from.

    Returns:
        Sentences on what could not be told.
    """
    if wandb_run is None:
        return []
    wandb_run.summary.update(summary(run.manifest()))
    notices = use_sources(wandb_run, built_from)
    log_files(wandb_run, run)
    run.update_manifest(wandb_step=wandb_run.step)  # where the row of the test goes on
    return notices


def conclude_test(
    logger: Any, run: Run, rows: Sequence[dict[str, Any]], gallery: CaseGallery
) -> None:
    """Give W&B the scores of a run's own test, its patients, and the manifest that holds them."""
    if not logger:
        return
    scores = {f"test/{name}": value for name, value in run.manifest()["test_scores"].items()}
    wandb_run, step = logger.experiment, int(run.manifest().get("wandb_step", 0))
    log_cases(wandb_run, "test", rows, gallery.pictures, scores, step=max(step, wandb_run.step))
    wandb_run.summary.update(summary(run.manifest()))
    log_papers(wandb_run, run)
    run.update_manifest(wandb=folders(run), wandb_step=wandb_run.step)


def summary(manifest: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a run that the dashboard compares: scores, parameters, cost."""
    scores = {f"best/{name}": value for name, value in manifest.get("scores", {}).items()}
    dices = [value for name, value in scores.items() if name.startswith("best/val/dice/")]
    if dices:
        scores["best/val/dice/mean"] = sum(dices) / len(dices)
    numbered = {
        "parameters": manifest.get("parameters", {}),
        "peak_memory_gb": manifest.get("peak_memory_gb", {}),
        "test": manifest.get("test_scores", {}),
    }
    found = {f"{kind}/{name}": value for kind, of in numbered.items() for name, value in of.items()}
    return {**scores, **found, "wall_seconds": manifest.get("wall_seconds", 0.0)}


# -- where it lies ---------------------------------------------------------------------------------


def folders(run: Run) -> list[str]:
    """Return W&B's folders of a run; a resumed or tested offline run has several, with one id."""
    return sorted(
        str(folder) for folder in (run.folder / "wandb").glob("*run-*") if folder.is_dir()
    )


def offline_folders(run: Run) -> list[str]:
    """Return the offline folders of a run, before them those of the runs it was built from."""
    found = []
    for folder in map(Path, run.manifest().get("stages", {}).values()):
        experiment, run_id = folder.parts[-2:]  # beside this run, wherever the runs lie now
        beside = run.folder.parents[1] / experiment / run_id
        found += offline_folders(Run(experiment, run_id, beside))
    found += [folder for folder in folders(run) if Path(folder).name.startswith("offline")]
    return list(dict.fromkeys(found))


def finish() -> None:
    """Close W&B's run, if one is open, so that its files are whole."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
