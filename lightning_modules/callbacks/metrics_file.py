"""Files of a training: its metrics, and overlays of validation patients."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812, the name its own documentation uses
import numpy as np
from lightning.pytorch.callbacks import Callback

from datamodules.layouts.case_files import MODALITIES
from evaluation.figures.overlay import overlay_png
from evaluation.tables.per_case import read_csv, write_csv
from files import write_atomically
from lightning_modules.callbacks.case_gallery import log_cases
from lightning_modules.callbacks.prediction_writer import PredictionWriter
from lightning_modules.contracts.protocols import Monitored
from lightning_modules.run_logger import harmless, wandb_run

__all__ = [
    "MetricsFile",
    "PredictionWriter",
    "ValidationGallery",
    "read_metrics",
    "running_as_stage",
]


class MetricsFile(Callback):
    """Write ``metrics.csv``, a row an epoch: the same numbers as on the W&B dashboard.

    A resumed run keeps the rows of finished epochs and repeats none. (Lightning's own
    CSVLogger removes the file when a run restarts.)

    Args:
        path: the file; written whole and renamed at the end of every epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the rows of the epochs that are not trained again."""
        self.rows = [
            {**row, "epoch": int(row["epoch"]), "step": int(row["step"])}
            for row in read_metrics(self.path)
            if int(row["epoch"]) < trainer.current_epoch
        ]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row."""
        metrics = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if getattr(pl_module, "validated", True) or not name.startswith("val/")
        }
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step // getattr(pl_module, "steps_per_batch", 1),
            "lr": rates[0],
            **metrics,
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            write_csv(self.rows, self.path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.csv``, numbers as floats; an absent file has none."""
    return read_csv(path) if path.is_file() else []


class ValidationGallery(Callback):
    """Keep overlays of a few validation patients at the best epoch, for W&B and the run folder.

    Their arrays are saved when an epoch becomes the best one, and drawn at the end: a training that
    is killed after its best epoch and resumed without a better one still has them.

    Args:
        folder: folder of the PNG files.
        cases: number of patients.
    """

    def __init__(self, folder: Path, cases: int = 3) -> None:
        self.folder = folder
        self.cases = cases
        self.latest: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {}
        self.best_rows: list[dict[str, Any]] = []
        self.best_score = -math.inf

    @property
    def kept(self) -> Path:
        """File of the arrays from which the overlays of the best epoch are drawn."""
        return self.folder / "best.npz"

    def state_dict(self) -> dict[str, Any]:
        """Store the best score, for resuming."""
        return {"best_score": self.best_score, "best_rows": self.best_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self.best_score = float(state_dict["best_score"])
        self.best_rows = list(state_dict["best_rows"])

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the regions of the first patients, on the prepared grid."""
        if trainer.is_global_zero and batch_idx < self.cases and outputs is not None:
            case = outputs["case"]
            self.latest[case.case_id] = (case, outputs["predicted"], outputs["reference"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save this epoch when it is the best so far, as ``best.ckpt`` is saved."""
        self.keep_best(trainer, cast(Monitored, pl_module))

    def keep_best(self, trainer: L.Trainer, model: Monitored) -> None:
        """Save the latest validation when it is the best so far."""
        if model.monitor not in trainer.callback_metrics:  # before the first validation
            return
        score = float(trainer.callback_metrics[model.monitor])
        score = score if model.monitor_mode == "max" else -score
        if score > self.best_score:
            self.best_score = score
            self.best_rows = [
                {"case_id": case_id, **{name: float(value) for name, value in scores.items()}}
                for case_id, scores in sorted(model.validation_cases.items())
            ]
            if trainer.is_global_zero:
                self._keep()

    def _keep(self) -> None:
        """Save the arrays of the overlays, which takes a fraction of the time to draw them."""
        found: dict[str, Any] = {}
        for case_id, (case, predicted, reference) in self.latest.items():
            found[f"{case_id}/image"] = np.asarray(case.image, dtype=np.float16)
            found[f"{case_id}/prediction"] = predicted
            found[f"{case_id}/reference"] = reference
            found[f"{case_id}/spacing"] = np.asarray(case.spacing)
            found[f"{case_id}/synthetic"] = np.asarray(case.synthetic)
        write_atomically(self.kept, lambda file: np.savez(file, **found))

    def _draw(self) -> None:
        """Draw the saved arrays, then delete them."""
        if not self.kept.is_file():
            return  # drawn by an earlier process of this run
        with np.load(self.kept) as found:
            for case_id in dict.fromkeys(name.rpartition("/")[0] for name in found):
                overlay_png(
                    images=dict(
                        zip(MODALITIES, found[f"{case_id}/image"].astype(np.float32), strict=True)
                    ),
                    prediction=found[f"{case_id}/prediction"],
                    reference=found[f"{case_id}/reference"],
                    path=self.folder / f"{case_id}.png",
                    title=case_id,
                    spacing=tuple(found[f"{case_id}/spacing"]),
                    synthetic=bool(found[f"{case_id}/synthetic"]),
                )
        self.kept.unlink()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the gallery, and log it as a table when W&B is on."""
        self.publish(trainer)

    def publish(self, trainer: L.Trainer) -> None:
        """Write the overlays of the best epoch; log the table of validation patients."""
        if not trainer.is_global_zero:
            return
        self._draw()
        run = wandb_run(trainer)
        if run is not None and self.best_rows:
            rows = [
                {
                    name if name == "case_id" else f"dice/{name}": value
                    for name, value in row.items()
                }
                for row in self.best_rows
            ]
            pictures = {file.stem: file for file in sorted(self.folder.glob("*.png"))}
            with harmless("did not take the validation patients"):
                log_cases(run, "val", rows, pictures)


def running_as_stage() -> bool:
    """Whether this process trains a stage in the background of another gliofuse process."""
    return os.environ.get("GLIOFUSE_STAGE") == "1"
