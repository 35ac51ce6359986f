"""Weights & Biases around a run: always on, offline without a key, never a prompt."""

import importlib
import netrc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from datamodules.slices import RegisteredSliceDataModule
from errors import InputError
from lightning_modules.case_gallery import CaseGallery, log_cases
from studies.artifacts import Source, log_files, log_papers, sources, use_sources
from studies.runs import Run
from studies.stages import Plan

GROUP = "GLIOFUSE_GROUP"  # a benchmark names its group in it; stages in the background inherit it
LOGGERS = ("RunLogger", "WandbLogger")
MODES = {"online": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


def has_key() -> bool:
    """Whether W&B could go online without asking: a key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def mode() -> str:
    """Return online, offline or disabled: what ``WANDB_MODE`` asks for, else what a key allows.

    Raises:
        InputError: when it is something else, or online without a key: W&B would ask for one.
    """
    asked = os.environ.get("WANDB_MODE")
    if not asked:
        return "online" if has_key() else "offline"
    if asked not in MODES:
        raise InputError(
            f"The environment variable WANDB_MODE is {asked!r}: expected online, offline or "
            "disabled; without it a run is online where there is a key."
        )
    if asked == "online" and not has_key():
        raise InputError(
            "The environment variable WANDB_MODE is 'online', but there is no key of W&B: run "
            "`wandb login` first, set WANDB_API_KEY, or leave WANDB_MODE out to log offline."
        )
    return MODES[asked]


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
        "group": os.environ.get(GROUP) or f"{study}-{cohort[:8]}",
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
    return notices


def conclude_test(
    logger: Any, run: Run, rows: Sequence[dict[str, Any]], gallery: CaseGallery
) -> None:
    """Give W&B the scores of a run's own test, its patients, and the manifest that holds them."""
    if not logger:
        return
    scores = {f"test/{name}": value for name, value in run.manifest()["test_scores"].items()}
    log_cases(logger.experiment, "test", rows, gallery.pictures, scores)
    logger.experiment.summary.update(summary(run.manifest()))
    log_papers(logger.experiment, run)
    run.update_manifest(wandb=folders(run))


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
        found += offline_folders(Run(folder.parent.name, folder.name, folder))
    found += [folder for folder in folders(run) if Path(folder).name.startswith("offline")]
    return list(dict.fromkeys(found))


def finish() -> None:
    """Close W&B's run, if one is open, so that its files are whole."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
