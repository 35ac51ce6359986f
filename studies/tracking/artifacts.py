"""The W&B artifacts of a run: its files, and links to the runs that it was built from."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from lightning_modules.weights.checkpoints import read_card
from studies.runs.planning import Plan
from studies.runs.run import Run


@dataclass(frozen=True)
class Source:
    """A checkpoint of another run that a training starts from.

    Args:
        experiment: experiment of that run.
        id: id of that run.
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


def sources(plan: Plan) -> list[Source]:
    """Return the runs that a training starts from: its stages, and checkpoints it names."""
    found = [
        Source(stage.run.experiment, stage.run.id, stage.run.best_checkpoint)
        for stage in plan.stages.values()
    ]
    for file in plan.checkpoints().values():
        try:
            made_by = read_card(file).get("run", {})
        except InputError:
            continue  # refused with the reason when the checkpoint is loaded
        if {"experiment", "id"} <= set(made_by):
            found.append(Source(made_by["experiment"], made_by["id"], file))
    return found


def log_files(wandb_run: Any, run: Run) -> None:
    """Log the checkpoint and the split of a run as an artifact each.

    The split's artifact is named by its content, so that runs with the same split share it.
    """
    wandb_run.log_artifact(_model(run.experiment, run.id, run.best_checkpoint))
    split = run.folder / "split.json"
    if split.is_file():
        digest = hashlib.sha256(split.read_bytes()).hexdigest()[:12]
        wandb_run.log_artifact(_artifact(artifact_name("split", digest), "split", [split]))


def log_manifest(wandb_run: Any, run: Run) -> None:
    """Log the manifest with settings and tables; a test adds a version with its scores."""
    names = ("manifest.json", "config.yaml", "metrics.csv", "per_case.csv")
    files = [run.folder / name for name in names]
    name = artifact_name(run.experiment, run.id, "manifest")
    wandb_run.log_artifact(_artifact(name, "manifest", files))


def use_sources(wandb_run: Any, found: list[Source]) -> list[str]:
    """Link the runs that a training was built from as its W&B inputs.

    Returns:
        Sentences on links that failed; the configuration names all these runs in any case.
    """
    notices = []
    for source in found:
        try:
            if wandb_run.offline:
                # `use_artifact` refuses offline, so the artifact is logged once more, to be used
                # after that. Equal content under the same name is the same version, and
                # `wandb sync` makes the link.
                model = _model(source.experiment, source.id, source.checkpoint)
                wandb_run._log_artifact(
                    model, aliases=["latest"], is_user_created=True, use_after_commit=True
                )
            else:
                wandb_run.use_artifact(f"{source.artifact}:latest", type="model")
        except Exception as error:  # a missing link on a dashboard must not stop a training
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            notices.append(
                f"W&B does not show that this run was built from {source.artifact} ({reason}): "
                "sync that run first."
            )
    return notices


def _model(experiment: str, run_id: str, checkpoint: Path) -> Any:
    artifact = _artifact(artifact_name(experiment, run_id), "model", [])
    # `immutable`: uploaded from its place later, instead of being copied now
    artifact.add_file(str(checkpoint.resolve()), name="best.ckpt", policy="immutable")
    return artifact


def _artifact(name: str, kind: str, files: list[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for file in files:
        if file.is_file():  # copied, because a test may change the manifest before the upload
            artifact.add_file(str(file.resolve()), policy="mutable")
    return artifact
