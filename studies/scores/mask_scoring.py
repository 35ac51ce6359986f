"""Check and score one prediction file against one reference file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.layouts.conventions import REGIONS
from datamodules.layouts.label_values import contradicts
from datamodules.nifti.grids import aligned, difference, onto_grid
from datamodules.nifti.headers import SYNTHETIC_TRAINING, is_synthetic, trained_on_synthetic
from datamodules.nifti.label_map import small_labels
from datamodules.nifti.volume import Volume, read_volume
from errors import InputError
from evaluation.metrics.calibration import Reliability, measure_reliability
from evaluation.metrics.scores import rule_named, score_case
from studies.scores.mask_folders import Pair


@dataclass(frozen=True)
class Findings:
    """Reasons why a pair cannot be scored, a sentence each.

    Args:
        problems: problems of these files alone.
        contradictions: contradictions between values and their stated meaning, which concern every
            pair read the same way.
        values: values other than 0, by the command-line option that sets their meaning.
        remarks: what readers of the scores need to know about the prediction.
    """

    problems: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    values: dict[str, set[int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scored:
    """The scores of a pair.

    Args:
        row: row of ``per_case.csv``.
        reliability: region to calibration counts; empty without probabilities.
    """

    row: dict[str, Any]
    reliability: dict[str, Reliability] = field(default_factory=dict)


def examine_pair(pair: Pair, regions: Sequence[str] = REGIONS) -> Findings:
    """Read both files and return their problems."""
    findings = Findings()
    volumes = []
    for path, convention, option in (
        (pair.prediction, pair.prediction_labels, "prediction_labels"),
        (pair.reference, pair.reference_labels, "labels"),
    ):
        try:
            volume, labels = _read_labels(path)
        except InputError as error:
            findings.problems.append(str(error))
            continue
        volumes.append(volume)
        values = {int(value) for value in np.flatnonzero(np.bincount(labels.ravel("K")))}
        findings.values[option] = values - {0}
        contradiction = contradicts(convention, values - {0}, f"--{option}")
        if contradiction:
            findings.contradictions.append(f"{path}: {contradiction}.")
    if len(volumes) == 2:
        predicted, reference = (volume.header for volume in volumes)
        if trained_on_synthetic(predicted) and not is_synthetic(reference):
            findings.remarks.append(SYNTHETIC_TRAINING)
        findings.problems.extend(_grids_differ(pair, *volumes))
        if pair.probabilities is not None:
            try:
                _read_probabilities(pair.probabilities, volumes[1], regions)
            except InputError as error:
                findings.problems.append(str(error))
    return findings


def score_pair(pair: Pair, regions: Sequence[str], rule: str) -> Scored:
    """Score a pair in which `examine_pair` found no problem.

    Args:
        pair: the files.
        regions: regions to score, of WT, TC and ET.
        rule: name of the rule for empty regions.

    Raises:
        InputError: if a file changed since it was examined.
    """
    chosen = [REGIONS.index(region) for region in regions]
    volume, labels = _read_labels(pair.reference)
    reference = pair.reference_labels.to_regions(labels)[chosen]
    prediction, labels = _read_labels(pair.prediction)
    turned = onto_grid(labels, prediction.affine, volume.affine, volume.array.shape)
    if turned is None:
        raise InputError(f"{pair.prediction} changed since it was examined: repeat the command.")
    predicted = pair.prediction_labels.to_regions(turned)[chosen]
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    row = {
        "case_id": pair.case_id,
        **score_case(predicted, reference, volume.spacing, regions, rule_named(rule)),
        **{
            f"volume_ml/{region}": round(float(mask.sum()) * voxel_ml, 3)
            for region, mask in zip(regions, reference, strict=True)
        },
    }
    if pair.probabilities is None:
        return Scored(row)
    probabilities = _read_probabilities(pair.probabilities, volume, regions)
    try:
        counts = {
            region: measure_reliability(probabilities[..., index], mask)
            for index, (region, mask) in enumerate(zip(regions, reference, strict=True))
        }
    except ValueError as error:
        raise InputError(f"{pair.probabilities}: {error}; write it again.") from error
    return Scored(row, counts)


def _read_labels(path: Path) -> tuple[Volume, np.ndarray]:
    """Return a label map's volume and its values as uint8 (d, h, w).

    Raises:
        InputError: if the file cannot be read or holds anything but labels from 0 to 255.
    """
    volume = read_volume(path)
    try:
        return volume, small_labels(volume.array, str(path))
    except InputError as error:
        raise InputError(f"{error}.") from error


def _grids_differ(pair: Pair, prediction: Volume, reference: Volume) -> list[str]:
    if aligned(prediction, reference) is not None:
        return []
    advice = "bring the prediction to the reference's grid."
    return [difference(f"{pair.prediction}", prediction, "its reference", reference, advice)]


def _read_probabilities(path: Path, grid: Volume, regions: Sequence[str]) -> np.ndarray:
    """Return the probabilities (d, h, w, R) of the given regions.

    Raises:
        InputError: if the file cannot be read, or has another grid or other channels.
    """
    volume = read_volume(path)
    array = volume.array if volume.array.ndim == 4 else volume.array[..., None]
    if array.shape[3] not in (len(regions), len(REGIONS)):
        raise InputError(
            f"{path} has the shape {array.shape}: expected {(*grid.array.shape, len(regions))}, "
            f"the probabilities of {', '.join(regions)} on the grid of the reference."
        )
    turned = onto_grid(array, volume.affine, grid.affine, grid.array.shape)
    if turned is None:
        advice = "write the probabilities on the reference's grid."
        raise InputError(difference(f"{path}", volume, "the reference", grid, advice))
    array = turned
    if array.shape[3] != len(regions):
        array = array[..., [REGIONS.index(region) for region in regions]]
    return array
