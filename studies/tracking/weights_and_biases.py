"""Logging of a run to Weights & Biases: always on, offline without a key, never a prompt."""

import importlib
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from datamodules.slices.datamodule import RegisteredSliceDataModule
from lightning_modules.callbacks.case_gallery import CaseGallery, log_cases
from lightning_modules.callbacks.metrics_file import read_metrics
from lightning_modules.run_logger import RunLogger, harmless
from studies.runs.checkpoint_settings import CheckpointSettings
from studies.runs.planning import Plan
from studies.runs.run import Run
from studies.settings.command_line import CommandLine
from studies.settings.protocol import PROTOCOL
from studies.tracking.account import mode
from studies.tracking.artifacts import Source, log_files, log_manifest, sources, use_sources

GROUP = "GLIOFUSE_GROUP"  # environment variable with a benchmark's group; stages inherit it
LOGGERS = ("RunLogger", "WandbLogger")
# options that set the place of the data and the part of it that is used, not what is trained
SAME_SYSTEM = {
    *(f"data.{name}" for name in ("root", "layout", "labels", "images", "cache_dir")),
    *(f"data.{name}" for name in ("num_workers", "n_folds", "fold", "split_file")),
    *(f"data.{name}" for name in ("seed", "split_seed")),
    *(f"data.phantom_{name}" for name in ("patients", "seed", "spacing")),
    "trainer.precision",
}
SYSTEM_OPTIONS = ("model", "data", *(f"trainer.{name}" for name in (*PROTOCOL, "callbacks")))


def describe(plan: Plan) -> dict[str, Any]:
    """Return a training's entries for W&B: ``id``, ``group``, ``job_type``, ``tags``, ``about``.

    All trainings of one study on one cohort are a group, so that a fusion and its backbones lie
    side by side; those of a benchmark (``GLIOFUSE_GROUP``) are a group of their own. The job type
    is that of the module's class: backbone, fusion, adapter or pretrain.
    """
    study = "2d" if isinstance(plan.data, RegisteredSliceDataModule) else "3d"
    cohort, run, split = plan.data.fingerprint(), plan.run, plan.data.split
    module, _, name = str(plan.config["model"]["class_path"]).rpartition(".")
    tags = [study, run.experiment, *plan.line.overlays, *_benchmark()]
    group = " ".join([*_benchmark(), f"{study}-{cohort[:8]}"])
    if not _benchmark():
        group = os.environ.get("WANDB_RUN_GROUP") or group
    return {
        "id": _id(run),
        "group": group,
        "job_type": getattr(getattr(importlib.import_module(module), name), "job_type", "training"),
        "tags": [tag[:64] for tag in dict.fromkeys(tags)],
        "about": {
            "experiment": run.experiment,
            "system": system_name(plan.line),
            "run": run.id,
            "study": study,
            "cohort": cohort,
            "seed": plan.config["seed_everything"],
            "patients": {part: len(getattr(split, part)) for part in ("train", "val", "test")},
            "built_from": [source.artifact for source in sources(plan)],
        },
    }


def _benchmark() -> list[str]:
    """Return the name of the benchmark that this process is a job of, if there is one."""
    return [os.environ[GROUP]] if os.environ.get(GROUP) else []


def _id(run: Run) -> str:
    """Return W&B's id of a run: given by an agent of a W&B sweep, or drawn once for its folder.

    It is not the run's identity: training the same again, elsewhere or with --overwrite, would then
    write into the W&B run of the first training.
    """
    filed = run.manifest().get("tracking")
    known = None if filed is None else filed.get("id", run.id)  # older runs used their identity
    return os.environ.get("WANDB_RUN_ID") or known or f"{run.id}-{secrets.token_hex(4)}"


def system_name(line: CommandLine) -> str:
    """Return the name under which runs are averaged: experiment, overlays and options.

    Options that do not change the system, such as folds, seeds and data folders, are left out.
    """
    options = {}
    for name, words in line.options:
        plain = name.replace("init_args.", "")
        if plain.startswith(SYSTEM_OPTIONS) and plain not in SAME_SYSTEM:
            short = plain.partition(".")[2] or plain
            options[short] = words[0].partition("=")[2] or " ".join(words[1:])
    settings = [f"{name}={value}" for name, value in sorted(options.items())]
    return " + ".join([line.experiment, *line.overlays, *settings])


def check_account(config: dict[str, Any]) -> None:
    """Check ``WANDB_MODE`` if a configuration of ``fit`` logs to W&B.

    Raises:
        InputError: when the mode is unknown, or online without a key.
    """
    logger = config["trainer"].get("logger")
    if isinstance(logger, dict) and str(logger.get("class_path")).endswith(LOGGERS):
        mode()


def configure(trainer: Namespace, run: Run, plan: Plan) -> dict[str, Any]:
    """Point the configuration's W&B logger at a training's run; return its entries for W&B."""
    filed = describe(plan)
    if _logger(trainer) is not None:
        _configure(trainer, run, filed, plan.config)
    return filed


def configure_again(trainer: Namespace, run: Run, restored: CheckpointSettings) -> None:
    """Point the logger of ``test`` at the training's run: its scores join that run's summary."""
    filed = run.manifest().get("tracking")
    if filed is None:  # a checkpoint that was moved away from its run
        trainer.logger = False
    elif _logger(trainer) is not None:
        tags = dict.fromkeys([*filed["tags"], "tested", *_benchmark()])
        filed = {"id": run.id, **filed, "tags": [tag[:64] for tag in tags]}
        _configure(trainer, run, filed, restored.config)


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
    settings.id = settings.version = filed["id"]
    settings.name = f"{run.experiment}-{run.id}"
    logger.dict_kwargs = {
        **dict(logger.get("dict_kwargs") or {}),
        **{name: filed[name] for name in ("group", "job_type", "tags")},
        "config": {**config, "gliofuse": filed["about"]},
        "resume": "allow",
    }


def conclude(wandb_run: Any, run: Run, built_from: list[Source]) -> list[str]:
    """Log the summary of a trained run, its files, and the runs that it was built from.

    Returns:
        Sentences on links that failed.
    """
    notices: list[str] = []
    if wandb_run is not None:
        with harmless("did not take the summary and the files of this run"):
            wandb_run.summary.update(summary(run.manifest()))
            notices += use_sources(wandb_run, built_from)
            log_files(wandb_run, run)
    return notices


def conclude_manifest(wandb_run: Any, run: Run) -> None:
    """Log the manifest of a finished training, with its settings and tables."""
    if wandb_run is not None:
        with harmless("did not take the manifest of this run"):
            log_manifest(wandb_run, run)


def answer_agent(trainer: Namespace, plan: Plan) -> None:
    """Log a trial that was trained before, its epochs and summary, for the agent of a W&B sweep.

    The agent's run would otherwise have no metric. Tests of the run still join the W&B run of its
    training.
    """
    if not os.environ.get("WANDB_SWEEP_ID") or _logger(trainer) is None:
        return
    configure(trainer, plan.run, plan)
    if not trainer.logger:
        return
    logger = trainer.logger
    with harmless("did not take this trial, trained before"):
        again = RunLogger(**{**logger.init_args.as_dict(), **logger.dict_kwargs})
        for row in read_metrics(plan.run.metrics_file):
            again.log_metrics(row, step=int(row["step"]))
        again.flush()
        again.experiment.summary.update(summary(plan.run.manifest()))
        print("The agent's W&B run now has the scores of that training.", flush=True)
    finish()


def conclude_test(
    logger: Any, run: Run, rows: Sequence[dict[str, Any]], gallery: CaseGallery
) -> None:
    """Log the scores of a run's own test, its patients, and the updated manifest."""
    if not logger:
        return
    scores = {f"test/{name}": value for name, value in run.manifest()["test_scores"].items()}
    with harmless("did not take the scores of this test"):
        wandb_run, step = logger.experiment, int(run.manifest().get("wandb_step", 0))
        log_cases(wandb_run, "test", rows, gallery.pictures, scores, step=max(step, wandb_run.step))
        wandb_run.summary.update(summary(run.manifest()))
        log_manifest(wandb_run, run)
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
    for kind, values in numbered.items():
        scores |= {f"{kind}/{name}": value for name, value in values.items()}
    return {**scores, "wall_seconds": manifest.get("wall_seconds", 0.0)}


def folders(run: Run) -> list[str]:
    """Return W&B's folders of a run; a resumed or tested offline run has several, with one id."""
    return sorted(
        str(folder) for folder in (run.folder / "wandb").glob("*run-*") if folder.is_dir()
    )


def offline_folders(run: Run) -> list[str]:
    """Return the offline folders of a run, after those of the runs it was built from.

    A training that was killed as it began left a folder without W&B's file: nothing to sync.
    """
    found = []
    for folder in map(Path, run.manifest().get("stages", {}).values()):
        experiment, run_id = folder.parts[-2:]  # beside this run, wherever the runs lie now
        beside = run.folder.parents[1] / experiment / run_id
        found += offline_folders(Run(experiment, run_id, beside))
    own = [Path(folder) for folder in folders(run)]
    found += [
        str(folder)
        for folder in own
        if folder.name.startswith("offline") and any(folder.glob("*.wandb"))
    ]
    return list(dict.fromkeys(found))


def finish() -> None:
    """Close W&B's run, if one is open, so that its files are whole."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        with harmless("did not close this run"):
            wandb.finish()
