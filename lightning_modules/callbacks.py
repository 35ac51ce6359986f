"""What a run leaves behind: its metrics file, its gallery, its predictions."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
import numpy as np
from lightning.pytorch.callbacks import Callback

from datamodules.layouts import MODALITIES, probabilities_name
from errors import InputError
from evaluation.figures import overlay_png
from evaluation.tables import read_csv, write_csv
from lightning_modules.case_gallery import log_cases
from lightning_modules.run_logger import harmless, wandb_run


class MetricsFile(Callback):
    """Write ``metrics.csv``, a row an epoch: the same numbers as on the W&B dashboard.

    A resumed run keeps the rows of the epochs it goes on from and repeats none. (Lightning's own
    CSVLogger removes the file when a run restarts.)

    Args:
        path: the file; written whole and renamed at the end of every epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the rows of the epochs that are not trained again."""
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

    What they show is written when an epoch becomes the best one, and drawn at the end: a training
    that is killed after its best epoch and goes on without a better one still has them.

    Args:
        folder: where the PNG files go.
        cases: how many patients.
    """

    def __init__(self, folder: Path, cases: int = 3) -> None:
        self.folder = folder
        self.cases = cases
        self.latest: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {}
        self.best_rows: list[dict[str, Any]] = []
        self.best_score = -math.inf

    @property
    def kept(self) -> Path:
        """File of what the overlays of the best epoch so far will show."""
        return self.folder / "best.npz"

    def state_dict(self) -> dict[str, Any]:
        """Keep the score to beat across a resume."""
        return {"best_score": self.best_score, "best_rows": self.best_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the score to beat."""
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

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember this epoch when it is the best so far."""
        found: Any = pl_module
        score = float(trainer.callback_metrics.get(found.monitor, 0.0))
        score = score if found.monitor_mode == "max" else -score
        if score > self.best_score:
            self.best_score = score
            self.best_rows = [
                {"case_id": case_id, **{name: float(value) for name, value in scores.items()}}
                for case_id, scores in sorted(_validation_cases(pl_module).items())
            ]
            if trainer.is_global_zero:
                self._keep()

    def _keep(self) -> None:
        """Write what the overlays will show, which takes a fraction of drawing them."""
        found: dict[str, Any] = {}
        for case_id, (case, predicted, reference) in self.latest.items():
            found[f"{case_id}/image"] = np.asarray(case.image, dtype=np.float16)
            found[f"{case_id}/prediction"] = predicted
            found[f"{case_id}/reference"] = reference
            found[f"{case_id}/spacing"] = np.asarray(case.spacing)
            found[f"{case_id}/synthetic"] = np.asarray(case.synthetic)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.kept.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as handle:
                np.savez(handle, **found)
            temporary.replace(self.kept)
        finally:
            temporary.unlink(missing_ok=True)

    def _draw(self) -> None:
        """Draw what is kept, and keep it no longer."""
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
        """Draw the gallery, and log it as a table when W&B listens."""
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


def _validation_cases(pl_module: L.LightningModule) -> dict[str, dict[str, float]]:
    """Return the scores per validation patient that a segmentation module keeps."""
    found: Any = pl_module
    return dict(found.validation_cases)


def _regions(pl_module: L.LightningModule) -> Sequence[str]:
    """Return the names of the regions that a segmentation module predicts."""
    found: Any = pl_module
    names: Sequence[str] = found.regions
    return names


class PredictionWriter(Callback):
    """Write one label map, one overlay and one line of volumes a patient.

    The NIfTI file lies on the input's grid and affine, in the label values and the file naming of
    the input's layout. ``volumes.csv`` gives ml and a column of doubts; where post-processing is
    on, also the ml before it. Maps that a network shows become 4-D NIfTI files, and ``maps.json``
    names their channels.

    Args:
        folder: where everything goes.
        probabilities: also write the region probabilities (4-D NIfTI, float32).
        all_grids: of a raw exam, also write the label map on the grid of every modality.
        announce: called before the first patient is written, by one process of all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        probabilities: bool = False,
        all_grids: bool = False,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.announce = announce
        self.probabilities = probabilities
        self.all_grids = all_grids
        self.rows: dict[str, dict[str, Any]] = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a folder in which a prediction would get the name of a patient's own label.

        Raises:
            InputError: naming the label.
        """
        data: Any = getattr(trainer, "datamodule", None)
        for case in data.cases.values() if data is not None else ():
            label = case.files.label
            if label and label.resolve() == (self.folder / case.prediction_name).resolve():
                raise InputError(
                    f"The prediction of {case.case_id} would be written over {label}, its label: "
                    "give another folder as --output."
                )

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one patient."""
        case, labels = outputs["case"], outputs["labels"]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.announce is not None and not self.rows and trainer.is_global_zero:
            self.announce()
        case.save_native(labels, self.folder / case.prediction_name, np.uint8)
        if self.all_grids and hasattr(case, "save_on_modalities"):  # else they share one grid
            case.save_on_modalities(self.folder / case.prediction_name)
        if self.probabilities:
            volume = np.moveaxis(outputs["probabilities"], 0, -1)
            file = self.folder / probabilities_name(case.prediction_name)
            case.save_native(volume, file, np.float32)
        for name, volume in outputs.get("maps", {}).items():
            stem = case.prediction_name.split(".nii")[0]
            file = self.folder / f"{stem}_{name}.nii.gz"
            case.save_native(np.moveaxis(volume, 0, -1), file, np.float32)
        regions = outputs["regions"]
        overlay_png(
            images={name: case.native_image(name) for name in MODALITIES},
            prediction=regions,
            reference=None,
            path=self.folder / f"{case.case_id}.png",
            title=case.case_id,
            spacing=case.native_spacing,
            orientation=case.native_orientation,
            synthetic=case.synthetic,
        )
        self.rows[case.case_id] = volume_row(
            case, regions, outputs["probabilities"] > 0.5, _regions(pl_module)
        )
        if "unprocessed" in outputs:
            before = volume_row(
                case, outputs["unprocessed"], outputs["unprocessed"], _regions(pl_module)
            )
            doubts = self.rows[case.case_id].pop("doubts")
            volumes = {f"{name}_unprocessed": ml for name, ml in before.items() if "_ml" in name}
            self.rows[case.case_id] |= {**volumes, "doubts": doubts}
        if trainer.world_size == 1:
            self._write_table(list(self.rows.values()))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of all ranks' patients, each once."""
        rows = list(self.rows.values())
        if trainer.world_size > 1:
            import torch

            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.rows)
            rows = list({key: row for part in gathered for key, row in part.items()}.values())
        if trainer.is_global_zero and rows:
            self._write_table(rows)
            found: Any = pl_module
            if found.shows_maps:
                text = json.dumps(found.map_channels(), indent=2)
                (self.folder / "maps.json").write_text(text + "\n")

    def _write_table(self, rows: list[dict[str, Any]]) -> None:
        ordered = sorted(rows, key=lambda row: row["case_id"])
        write_csv(ordered, self.folder / "volumes.csv")


def volume_row(
    case: Any, regions: np.ndarray, raw_regions: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Return one patient's volumes in ml and what is doubtful about the segmentation.

    Args:
        case: the patient, with ``native_spacing`` in mm and ``brain_ml``.
        regions: composed regions, bool (R, *native).
        raw_regions: the same before composition: sigmoid regions are not nested by themselves.
        names: of the R regions, the first of them WT.
    """
    voxel_ml = float(np.prod(case.native_spacing)) / 1000
    volumes = {name: float(regions[index].sum()) * voxel_ml for index, name in enumerate(names)}
    doubts = []
    if volumes["WT"] == 0:
        doubts.append("no tumour found")
    if volumes["WT"] > 0.4 * case.brain_ml:
        doubts.append("over 40 % of the brain")
    if len(raw_regions) > 1:
        outside = float((raw_regions[1] & ~raw_regions[0]).sum())
        if outside > 0.05 * max(1.0, float(raw_regions[1].sum())):
            doubts.append("core outside the whole tumour")
    row = {f"{name}_ml": round(volume, 3) for name, volume in volumes.items()}
    return {"case_id": case.case_id, **row, "doubts": "; ".join(doubts)}


def running_as_stage() -> bool:
    """Whether this process trains a stage in the background of another gliofuse process."""
    return os.environ.get("GLIOFUSE_STAGE") == "1"
