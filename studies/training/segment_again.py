"""The patients in a report: chosen by their scores and segmented again by every system."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from datamodules.base import CohortData
from datamodules.cases.case import PreparedCase
from datamodules.layouts.conventions import WHOLE_TUMOUR
from errors import InputError
from evaluation.figures.viewed_case import ViewedCase
from evaluation.statistics.comparison import Row
from studies.runs.exposure import stored_split
from studies.scores.tested import EXTERNAL, Tested

FOLDER = "report"  # inside a run: label maps for the report
TOLERANCE = 0.01  # of Dice, for another device or batch of slices


def choose_cases(rows: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Return case id to worst, median or best, by mean Dice over regions, systems and runs.

    Scores of whole volumes are used where available, else those of selected slices.
    """
    found: dict[str, list[float]] = {}
    for row in (row for own in rows.values() for row in own):
        values = _dices(row, "dice/") or _dices(row, "slices/dice/")
        found.setdefault(str(row["case_id"]), []).extend(values.values())
    means = {case_id: fmean(values) for case_id, values in found.items() if values}
    ranked = sorted(means, key=lambda case_id: (means[case_id], case_id))
    if not ranked:
        return {}
    places = {ranked[0]: "worst", ranked[-1]: "best"}
    middle = ranked[(len(ranked) - 1) // 2]
    if len(ranked) == 1:
        return {ranked[0]: "only"}
    return {ranked[0]: "worst", middle: "median", **places} if len(ranked) > 2 else places


def view_cases(
    systems: Mapping[str, Sequence[Tested]], chosen: Mapping[str, str]
) -> tuple[list[ViewedCase], list[str]]:
    """Segment patients with every system whose checkpoint is available, on one grid.

    Label maps are stored inside each run and reused.

    Args:
        systems: name to runs.
        chosen: case id to the reason why it is shown.

    Returns:
        The patients that at least one system segmented, and a sentence on each missing part.
    """
    predictions: dict[str, dict[str, np.ndarray]] = {case_id: {} for case_id in chosen}
    scores: dict[str, dict[str, dict[str, float]]] = {case_id: {} for case_id in chosen}
    patients: dict[str, PreparedCase] = {}
    remarks: list[str] = []
    reasons: dict[str, list[str]] = {}
    for name, runs in systems.items():
        for run in runs:
            tested = {str(row["case_id"]): row for row in run.rows}
            wanted = [
                case_id
                for case_id in chosen
                if case_id in tested and name not in predictions[case_id]
            ]
            if not wanted:
                continue
            try:
                segmented = segment_cases(run, wanted)
            except (InputError, OSError, RuntimeError) as error:  # no room, no memory
                reasons.setdefault(" ".join(str(error).split()), []).append(name)
                continue
            for case_id, (case, regions) in segmented.items():
                patients.setdefault(case_id, case)
                predictions[case_id][name] = regions
                row = tested[case_id]
                scores[case_id][name] = _dices(row, "dice/") or _dices(row, "slices/dice/")
                remarks += _deviation(case, regions, name, _dices(row, "dice/"))
    viewed = [
        _viewed(patients[case_id], place, predictions[case_id], scores[case_id])
        for case_id, place in chosen.items()
        if case_id in patients
    ]
    for reason, names in reasons.items():
        remarks.append(f"Not in the pictures: {', '.join(dict.fromkeys(names))}; {reason}")
    return viewed, remarks


def segment_cases(
    tested: Tested, wanted: Sequence[str]
) -> dict[str, tuple[PreparedCase, np.ndarray]]:
    """Return case id to the patient and the regions (R, *native) that a run predicts.

    Args:
        tested: the run, whose best checkpoint is applied to its own data.
        wanted: ids of cases.

    Raises:
        InputError: when the run has no usable checkpoint, or its data is missing.
    """
    checkpoint = _checkpoint(tested)
    from lightning_modules.weights.checkpoints import read_card
    from studies.training.lightning_cli import quiet

    quiet()
    card = read_card(checkpoint)
    data = _data(card)
    patients = data.test_dataloader().dataset
    places = {case.case_id: place for place, case in enumerate(patients.cases)}
    lost = [case_id for case_id in wanted if case_id not in places]
    if lost:
        raise InputError(f"{', '.join(lost)} are no longer in the data of {checkpoint.parents[1]}.")
    folder = checkpoint.parents[1] / FOLDER
    files = {
        case_id: folder / f"{case_id}-{patients.cases[places[case_id]].content_hash[:8]}.nii.gz"
        for case_id in wanted
    }
    made = checkpoint.stat().st_mtime
    absent = [
        case_id
        for case_id, file in files.items()
        if not file.is_file() or file.stat().st_mtime < made
    ]
    if absent:
        _predict(checkpoint, patients, [places[case_id] for case_id in absent], files)
    return {
        case_id: (case, _regions(case, file, card))
        for case_id, file in files.items()
        for case in [patients.cases[places[case_id]]]
    }


def _checkpoint(tested: Tested) -> Path:
    if not tested.manifest:
        raise InputError(f"{tested.file} is a table alone, without a checkpoint.")
    folder = tested.file.parent
    if tested.cohort.startswith(EXTERNAL) or not (folder / "manifest.json").is_file():
        raise InputError(
            f"{tested.file} is a test on other data or under other settings than its run's own."
        )
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        raise InputError(f"there is no checkpoint at {checkpoint}.")
    return checkpoint


def _data(card: Mapping[str, Any]) -> CohortData:
    """Return the data of a training with the split in its checkpoint."""
    import lightning as L  # noqa: N812, the name its own documentation uses
    from jsonargparse import ArgumentError, ArgumentParser

    if not card.get("config"):
        raise InputError("its checkpoint does not carry the configuration of its training.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=L.LightningDataModule)
    try:
        settings = parser.parse_object({"data": card["config"]["data"]})
        data: CohortData = parser.instantiate(settings).data
    except (ArgumentError, ValueError) as error:
        raise InputError(f"its data cannot be opened ({' '.join(str(error).split())}).") from error
    data.stored_split = stored_split([dict(card)])
    data.prepare_data()
    data.setup("test")
    return data


def _predict(
    checkpoint: Path, patients: Any, places: Sequence[int], files: Mapping[str, Path]
) -> None:
    """Segment patients of a data set and write their label maps, with a progress bar."""
    import lightning as L  # noqa: N812, the name its own documentation uses
    from lightning.pytorch.callbacks import Callback
    from torch.utils.data import DataLoader, Subset

    from datamodules.loading import collate
    from lightning_modules.callbacks.run_progress import RunProgress
    from lightning_modules.weights.checkpoints import load_module

    class Keep(Callback):
        def on_predict_batch_end(self, *args: Any, **_: Any) -> None:
            result = args[2]
            case = result["case"]
            case.save_native(result["labels"], files[case.case_id], np.uint8)

    trainer = L.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[RunProgress(checkpoint.parents[2].name), Keep()],
    )
    loader: Any = DataLoader(Subset(patients, list(places)), batch_size=1, collate_fn=collate)
    trainer.predict(load_module(checkpoint), loader, return_predictions=False)


def _regions(case: PreparedCase, file: Path, card: Mapping[str, Any]) -> np.ndarray:
    """Return the regions (R, *native) of a label map written by the model with this card."""
    import nibabel as nib

    image: Any = nib.load(file)
    names = tuple(card["regions"])
    convention = WHOLE_TUMOUR if names == WHOLE_TUMOUR.regions else case.convention
    return convention.to_regions(np.asarray(image.dataobj))[: len(names)]


def _viewed(
    case: PreparedCase,
    place: str,
    predictions: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, float]],
) -> ViewedCase:
    from datamodules.layouts.case_files import MODALITIES

    return ViewedCase(
        case_id=case.case_id,
        place=place,
        images={name: case.native_image(name) for name in MODALITIES if name not in case.missing},
        reference=case.native_regions(),
        predictions=predictions,
        spacing=tuple(float(mm) for mm in case.native_spacing),
        orientation="".join(case.native_orientation),
        synthetic=bool(case.synthetic),
        scores=scores,
    )


def _deviation(
    case: PreparedCase, regions: np.ndarray, name: str, scores: Mapping[str, float]
) -> list[str]:
    """Return remarks where the Dice of a picture differs from that in the table."""
    from evaluation.metrics.scores import dice

    measured = {
        region: dice(mask, reference)
        for region, mask, reference in zip(scores, regions, case.native_regions(), strict=False)
    }
    return [
        f"{name}, {case.case_id}: Dice of {region} is {measured[region]:.3f} in the pictures and "
        f"{scores[region]:.3f} in the table; it was tested on another machine or version."
        for region in scores
        if region in measured and abs(measured[region] - scores[region]) > TOLERANCE
    ]


def _dices(row: Row, prefix: str) -> dict[str, float]:
    from datamodules.layouts.conventions import REGIONS

    found = {region: row.get(prefix + region) for region in REGIONS}
    return {
        region: value
        for region, value in found.items()
        if isinstance(value, float) and not math.isnan(value)
    }
