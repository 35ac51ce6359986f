"""Patients on the W&B dashboard: a table of scores, and pictures of the worst and best."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L  # noqa: N812, the name its own documentation uses
import numpy as np
from lightning.pytorch.callbacks import Callback

from datamodules.layouts.case_files import MODALITIES
from evaluation.figures.overlay import overlay_array
from lightning_modules.contracts.protocols import NativeCase, Segmenter


class CaseGallery(Callback):
    """Keep pictures of the test patients with the lowest Dice, and of the one with the highest.

    Args:
        worst: number of pictures of patients with the lowest Dice.
    """

    def __init__(self, worst: int = 3) -> None:
        self.worst = worst
        self.scores: dict[str, float] = {}
        self.pictures: dict[str, np.ndarray] = {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the patient on the original grid when it belongs to the gallery so far."""
        if not trainer.is_global_zero:
            return
        case: NativeCase = outputs["case"]
        row = cast(Segmenter, pl_module).test_rows[-1]
        self.scores[case.case_id] = mean_dice(row)
        chosen = self.chosen()
        if case.case_id in chosen:
            self.pictures[case.case_id] = overlay_array(
                images={name: case.native_image(name) for name in MODALITIES},
                prediction=outputs["regions"],
                reference=case.native_regions(),
                title=case.case_id,
                spacing=case.native_spacing,
                orientation=case.native_orientation,
                synthetic=case.synthetic,
            )
        self.pictures = {name: self.pictures[name] for name in chosen if name in self.pictures}

    def chosen(self) -> list[str]:
        """Return the case ids of the gallery among the patients scored so far, lowest first."""
        ordered = sorted(self.scores, key=lambda case_id: (self.scores[case_id], case_id))
        return list(dict.fromkeys([*ordered[: self.worst], *ordered[-1:]]))


def mean_dice(row: Mapping[str, Any]) -> float:
    """Return the mean Dice of a patient's volume, else of its slices, else 0."""
    for prefix in ("dice/", "slices/dice/"):
        values = [float(value) for name, value in row.items() if name.startswith(prefix)]
        if values:
            return float(np.mean(values))
    return 0.0


def log_cases(
    run: Any,
    subset: str,
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, np.ndarray | Path],
    metrics: Mapping[str, float] | None = None,
    step: int | None = None,
) -> None:
    """Log one row of history: ``<subset>/cases``, ``<subset>/overlays`` and more metrics.

    Args:
        run: the W&B run.
        subset: val or test.
        rows: ``case_id`` and scores, one row a patient.
        pictures: case id to a PNG file or RGB (height, width, 3) uint8; patients without a
            picture are left out.
        metrics: further metrics to log in the same row.
        step: step of the row; None: the next one.
    """
    import wandb

    shown = {
        name: found if isinstance(found, np.ndarray) else np.asarray(wandb.Image(found).image)
        for name, found in pictures.items()
    }
    images = {name: wandb.Image(one, caption=name) for name, one in pad_to_one_size(shown).items()}
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = wandb.Table(columns=[*columns, "overlay"])
    for row in rows:
        table.add_data(*(row.get(name) for name in columns), images.get(row["case_id"]))
    logged: dict[str, Any] = {**(metrics or {}), f"{subset}/cases": table}
    if images:
        logged[f"{subset}/overlays"] = list(images.values())
    run.log(logged, step=step, commit=True)


def pad_to_one_size(pictures: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pad RGB pictures with their background colour to one common size.

    W&B shows the pictures of a list at the size of the first, and warns about other sizes.

    Args:
        pictures: by name, (height, width, 3) or with an alpha channel, uint8.
    """
    height = max((picture.shape[0] for picture in pictures.values()), default=0)
    width = max((picture.shape[1] for picture in pictures.values()), default=0)
    found = {}
    for name, picture in pictures.items():
        rows, columns = picture.shape[:2]
        top, left = (height - rows) // 2, (width - columns) // 2
        found[name] = np.full((height, width, 3), picture[0, 0, :3], np.uint8)
        found[name][top : top + rows, left : left + columns] = picture[..., :3]
    return found
