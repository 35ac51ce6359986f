"""What W&B keeps of a run as files, and the runs that it was built from."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from lightning_modules.weights.checkpoints import read_card
from studies.runs.planning import Plan, replace_strings
from studies.runs.run import Run


@dataclass(frozen=True)
class Source:
    """A checkpoint of another run that a training begins from.

    Args:
        experiment: of that run.
        id: of that run.
        checkpoint: the file.
    """

    experiment: str
    id: str
    checkpoint: Path

    @property
    def artifact(self) -> str:
        """Name of the artifact that the other run logged."""
        return artifact_name(self.experiment, self.id)


def artifact_name(*words: str) -> str:
    """Return a name that W&B accepts: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(words))[:128]


def checkpoint_files(model: dict[str, Any]) -> list[str]:
    """Return the checkpoints that a model's configuration names."""
    found: list[str] = []

    def collect(text: str) -> str:
        if text.endswith(".ckpt"):
            found.append(text)
        return text

    replace_strings(model, collect)
    return found


def sources(plan: Plan) -> list[Source]:
    """Return the runs that a training begins from: its stages, and checkpoints it names."""
    found = [
        Source(stage.run.experiment, stage.run.id, stage.run.best_checkpoint)
        for stage in plan.stages.values()
    ]
    for name in checkpoint_files(plan.config["model"]):
        try:
            made_by = read_card(Path(name)).get("run", {})
        except InputError:
            continue  # refused where it is used, with the reason
        if {"experiment", "id"} <= set(made_by):
            found.append(Source(made_by["experiment"], made_by["id"], Path(name)))
    return found


def log_files(wandb_run: Any, run: Run) -> None:
    """Log the checkpoint and the split of a run, an artifact each.

    The split's name is its content: runs that share a split share the artifact.
    """
    wandb_run.log_artifact(_model(run.experiment, run.id, run.best_checkpoint))
    split = run.folder / "split.json"
    if split.is_file():
        digest = hashlib.sha256(split.read_bytes()).hexdigest()[:12]
        wandb_run.log_artifact(_artifact(artifact_name("split", digest), "split", [split]))


def log_papers(wandb_run: Any, run: Run) -> None:
    """Log the manifest with settings and tables; a test adds a version with its scores."""
    names = ("manifest.json", "config.yaml", "metrics.csv", "per_case.csv")
    files = [run.folder / name for name in names]
    name = artifact_name(run.experiment, run.id, "manifest")
    wandb_run.log_artifact(_artifact(name, "manifest", files))


def use_sources(wandb_run: Any, found: list[Source]) -> list[str]:
    """Tell W&B which runs a training was built from.

    Returns:
        Sentences on what could not be told; the names stand in the configuration all the same.
    """
    notices = []
    for source in found:
        try:
            if wandb_run.offline:
                # `use_artifact` refuses offline. Logged once more to be used after that, the same
                # content under the same name is the same version: `wandb sync` draws the line.
                model = _model(source.experiment, source.id, source.checkpoint)
                wandb_run._log_artifact(
                    model, aliases=["latest"], is_user_created=True, use_after_commit=True
                )
            else:
                wandb_run.use_artifact(f"{source.artifact}:latest", type="model")
        except Exception as error:  # a line on a dashboard is never worth a training
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            notices.append(
                f"W&B does not show that this run was built from {source.artifact} ({reason}): "
                "sync that run first."
            )
    return notices


def _model(experiment: str, run_id: str, checkpoint: Path) -> Any:
    artifact = _artifact(artifact_name(experiment, run_id), "model", [])
    # `immutable`: read where it lies when it is uploaded, instead of being copied now
    artifact.add_file(str(checkpoint.resolve()), name="best.ckpt", policy="immutable")
    return artifact


def _artifact(name: str, kind: str, files: list[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for file in files:
        if file.is_file():  # a copy: a test changes the manifest before it may be uploaded
            artifact.add_file(str(file.resolve()), policy="mutable")
    return artifact
