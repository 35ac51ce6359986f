"""Writer of predictions: label maps, overlays, volumes; never over a file of the user."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812, the name its own documentation uses
import numpy as np
from lightning.pytorch.callbacks import Callback

from datamodules.layouts.case_files import MODALITIES, NIFTI, probabilities_name
from datamodules.layouts.prediction_names import check_name
from evaluation.figures.overlay import overlay_png
from evaluation.tables.per_case import write_csv
from lightning_modules.contracts.protocols import NativeCase, RegisteredCase, Segmenter
from outputs import Outputs, some

VOLUMES, MAPS = "volumes.csv", "maps.json"
Begin = Callable[[Sequence[str], Sequence[Path]], object]
Findings = Callable[[Any], Sequence[str]]


class PredictionWriter(Callback):
    """Write a label map, an overlay and a row of volumes for each patient.

    The NIfTI file lies on the input's grid and affine, in the label values and the file naming of
    the input's layout. ``volumes.csv`` has volumes in ml and a column of doubts; where
    post-processing is on, also the volumes before it. Maps that a network shows become 4-D NIfTI
    files, and ``maps.json`` names their channels.

    Args:
        folder: folder of all files.
        probabilities: also write the region probabilities (4-D NIfTI, float32).
        all_grids: for a raw exam, also write the label map on the grid of every modality.
        begin: called by every process before the network runs, with the names of all files that
            will be written and the files that are read; None: these are only checked.
        announce: called by the main process before the first patient is written.
        unlike: returns in what a patient looks unlike those that the network was trained on.
        remark: words about the origin of the network, which mark every file; empty: none.
    """

    def __init__(
        self,
        folder: Path,
        *,
        probabilities: bool = False,
        all_grids: bool = False,
        begin: Begin | None = None,
        announce: Callable[[], None] | None = None,
        unlike: Findings | None = None,
        remark: str = "",
    ) -> None:
        self.folder = folder
        self.outputs = Outputs(folder, "--output")
        self.begin = begin
        self.announce = announce
        self.unlike = unlike
        self.remark = remark
        self.probabilities = probabilities
        self.all_grids = all_grids
        self.rows: dict[str, dict[str, Any]] = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check every file of every patient before the network runs.

        Raises:
            InputError: when a name is invalid, or is that of a file of the user.
        """
        model, data = cast(Segmenter, pl_module), getattr(trainer, "datamodule", None)
        cases: list[NativeCase] = list(data.cases.values()) if data is not None else []
        named = [name for case in cases for name in self.names(case, model).values()]
        tables = [VOLUMES, *([MAPS] if model.usage.shows_maps else [])]
        read = [path for case in cases for path in files_of(case)]
        begin = self.begin or self.outputs.check
        begin([*named, *tables], read)
        if trainer.world_size > 1:  # another process may just have moved the old files
            trainer.strategy.barrier()

    def names(self, case: NativeCase, model: Segmenter) -> dict[str, str]:
        """Return the files to write for a patient: kind of file to its name in the folder.

        Raises:
            InputError: when the layout gives a name that no NIfTI file can have.
        """
        mask = check_name(case.prediction_name, case.case_id, case.layout)
        stem = NIFTI.sub("", mask)
        found = {"mask": mask, "overlay": f"{case.case_id}.png"}
        if self.probabilities:
            found["probabilities"] = str(Path(mask).with_name(probabilities_name(Path(mask).name)))
        if self.all_grids and hasattr(case, "names_on_modalities"):  # else they share one grid
            apart = cast(RegisteredCase, case).names_on_modalities(mask)
            found |= {f"on {modality}": name for modality, name in apart.items()}
        if model.usage.shows_maps:
            found |= {f"map {name}": f"{stem}_{name}.nii.gz" for name in model.map_channels()}
        return found

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
        case, labels, model = outputs["case"], outputs["labels"], cast(Segmenter, pl_module)
        names, regions = self.names(case, model), outputs["regions"]
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.announce is not None and not self.rows and trainer.is_global_zero:
            self.announce()

        def save(kind: str, volume: np.ndarray, dtype: type) -> Path:
            name = names[kind]
            return self.outputs.write(
                name, lambda file: case.save_native(volume, file, dtype, self.remark)
            )

        mask = save("mask", labels, np.uint8)
        for kind, name in names.items():
            if kind.startswith("on "):
                self._save_on_modality(case, mask, kind.removeprefix("on "), name)
        if self.probabilities:
            save("probabilities", np.moveaxis(outputs["probabilities"], 0, -1), np.float32)
        for name, volume in outputs.get("maps", {}).items():
            save(f"map {name}", np.moveaxis(volume, 0, -1), np.float32)

        def draw(file: Path) -> None:
            overlay_png(
                images={name: case.native_image(name) for name in MODALITIES},
                prediction=regions,
                reference=None,
                path=file,
                title=case.case_id,
                spacing=case.native_spacing,
                orientation=case.native_orientation,
                synthetic=case.synthetic,
                remark=self.remark,
            )

        self.outputs.write(names["overlay"], draw)
        self.rows[case.case_id] = volume_row(
            case,
            regions,
            outputs["probabilities"] > 0.5,
            model.regions,
            [] if self.unlike is None else self.unlike(case),
        )
        if "unprocessed" in outputs:
            before = volume_row(case, outputs["unprocessed"], outputs["unprocessed"], model.regions)
            doubts = self.rows[case.case_id].pop("doubts")
            volumes = {f"{name}_unprocessed": ml for name, ml in before.items() if "_ml" in name}
            self.rows[case.case_id] |= {**volumes, "doubts": doubts}
        if self.remark:
            self.rows[case.case_id]["remark"] = self.remark
        if trainer.world_size == 1:
            self.write_table(list(self.rows.values()))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table of the patients of all ranks, each once."""
        rows = list(self.rows.values())
        if trainer.world_size > 1:
            import torch

            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self.rows)
            rows = list({key: row for part in gathered for key, row in part.items()}.values())
        if trainer.is_global_zero and rows:
            self.write_table(rows)
            model = cast(Segmenter, pl_module)
            if model.usage.shows_maps:
                text = json.dumps(model.map_channels(), indent=2)
                self.outputs.write(MAPS, text + "\n")

    def _save_on_modality(self, case: RegisteredCase, mask: Path, modality: str, name: str) -> None:
        self.outputs.write(
            name, lambda file: case.save_on_modality(mask, modality, file, self.remark)
        )

    def write_table(self, rows: list[dict[str, Any]]) -> None:
        """Write the table of volumes, its rows in the order of their case ids."""
        ordered = sorted(rows, key=lambda row: row["case_id"])
        self.outputs.write(VOLUMES, lambda file: write_csv(ordered, file))


def files_of(case: NativeCase) -> list[Path]:
    """Return the files of a patient that are read."""
    label = [case.files.label] if case.files.label else []
    return [*(image.path for image in case.files.images.values()), *label]


def volume_row(
    case: NativeCase,
    regions: np.ndarray,
    raw_regions: np.ndarray,
    names: Sequence[str],
    unlike: Sequence[str] = (),
) -> dict[str, Any]:
    """Return one patient's volumes in ml and the doubts about its segmentation.

    Args:
        case: the patient, with ``native_spacing`` in mm and ``brain_ml``.
        regions: composed regions, bool (R, *native).
        raw_regions: regions before composition, which need not be nested.
        names: names of the R regions, WT first.
        unlike: in what the patient looks unlike those that the network was trained on.
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
    if unlike:
        doubts.append(f"unlike the training patients: {some(unlike)}")
    row = {f"{name}_ml": round(volume, 3) for name, volume in volumes.items()}
    return {"case_id": case.case_id, **row, "doubts": "; ".join(doubts)}
