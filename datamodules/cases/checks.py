"""Checks that a case must pass before it is used, also by the `lightning check` command.

A case is read once; `examine` lists everything wrong with it, and the cache prepares the same
reading. Problems are found for all cases at once and reported one line a case.
"""

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datamodules.cases.brain import find_brain
from datamodules.cases.reading import Reading
from datamodules.cases.sameness import same_images
from datamodules.cases.settings import Missing
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.layouts.label_values import contradicts
from datamodules.nifti.grids import aligned, difference, grid_problem
from datamodules.nifti.label_map import MOST_LABELS, whole_numbers
from datamodules.nifti.volume import Volume, read_volume
from errors import InputError

# Increased when cases that passed before have to be checked again.
EXAMINATION_VERSION = 2
_ONE_GRID = "register them to one grid"


def examine(case: CaseFiles, *, missing: Missing = "error", whole_head: bool = False) -> Reading:
    """Read a case and list everything that is wrong with it.

    Args:
        case: Its files.
        missing: Whether a missing modality is a problem, or noted and filled later.
        whole_head: Whether images with skull and skin are taken.
    """
    reading = Reading(case)
    for modality in MODALITIES:
        if modality in case.images:
            continue
        if missing == "zero" and case.images:
            reading.notices.append(f"{modality} is missing and filled with the background")
        else:
            reading.problems.append(f"modality {modality} is missing")
    volumes = _read_all(reading)
    for modality, image in case.images.items():
        if case.label is not None and os.path.realpath(case.label) == os.path.realpath(image.path):
            reading.problems.append(f"the label and {modality} are one file: give it a label map")
    for modality, image in case.images.items():
        volume = volumes.get(image.path)
        if volume is not None:
            _take_image(reading, modality, image.channel, volume)
    _check_grids(reading)
    if case.label is not None and case.label in volumes:
        _take_label(reading, volumes[case.label])
    if not reading.problems:
        find_brain(reading, whole_head)
    if not reading.problems:
        reading.modality_hashes = reading.hash_modalities()
        arrays = {name: volume.array for name, volume in reading.images.items()}
        reading.problems += same_images(arrays, reading.modality_hashes)
    return reading


def duplicates(hashes: dict[str, str]) -> dict[str, str]:
    """Return the problem of each case whose images another case also holds, by case id."""
    by_hash: dict[str, list[str]] = defaultdict(list)
    for case_id, content in sorted(hashes.items()):
        by_hash[content].append(case_id)
    return {
        case_id: f"holds the same images as {', '.join(o for o in same if o != case_id)}: keep one"
        for same in by_hash.values()
        if len(same) > 1
        for case_id in same
    }


def _read_all(reading: Reading) -> dict[Path, Volume]:
    """Every file of the case, read side by side; a file that cannot be read is a problem."""
    case = reading.case
    paths = {image.path for image in case.images.values()} | ({case.label} - {None})

    def attempt(path: Path) -> Volume | str:
        try:
            return read_volume(path)
        except InputError as error:
            return str(error).rstrip(".")

    ordered = sorted(path for path in paths if path is not None)
    with ThreadPoolExecutor(max(1, len(ordered))) as pool:
        results = dict(zip(ordered, pool.map(attempt, ordered), strict=True))
    reading.problems += [result for result in results.values() if isinstance(result, str)]
    return {path: result for path, result in results.items() if isinstance(result, Volume)}


def _note(reading: Reading, name: str, what: str) -> None:
    """Note something about a file of the case; one sentence for all files that share it."""
    for place, notice in enumerate(reading.notices):
        if notice.endswith(f": {what}"):
            reading.notices[place] = f"{notice.removesuffix(f': {what}')}, {name}: {what}"
            return
    reading.notices.append(f"{name}: {what}")


def _take_image(reading: Reading, modality: str, channel: int | None, volume: Volume) -> None:
    array = volume.array
    if channel is not None:
        if array.ndim != 4 or channel >= array.shape[3]:
            reading.problems.append(
                f"{modality} should be channel {channel} of a 4-D image, which has the shape "
                f"{array.shape}"
            )
            return
        array = array[..., channel]
    elif array.ndim != 3:
        reading.problems.append(
            f"{modality} is {array.ndim}-D {array.shape}, expected 3-D: export one whole volume"
        )
        return
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
        reading.problems.append(
            f"{modality} holds NaN or Inf in {wrong} voxels: set them to 0, the background"
        )
        return
    if array.min() == array.max():
        reading.problems.append(
            f"{modality} is empty (all voxels {array.min():g}): export it again, or remove the file"
        )
        return
    reading.images[modality] = Volume(array, volume.affine, volume.header, volume.notices)
    for notice in volume.notices:
        _note(reading, modality, notice)


def _check_grids(reading: Reading) -> None:
    """Bring all modalities into the voxel order of the first; refuse those on other grids."""
    if not reading.images:
        return
    anchor, reference = next(iter(reading.images.items()))
    problem, notice = grid_problem(reference)
    reading.problems += [f"{anchor} {problem}"] if problem else []
    reading.notices += [notice] if notice else []
    if problem:
        return
    for modality, volume in list(reading.images.items())[1:]:
        turned = _onto_reference(reading, modality, volume)
        if turned is not None:
            reading.images[modality] = turned


def _onto_reference(reading: Reading, name: str, volume: Volume) -> Volume | None:
    """Return a volume in the case's voxel order; None, and a problem, if its grid differs."""
    anchor, reference = next(iter(reading.images.items()))
    turned = aligned(volume, reference)
    if turned is None:
        reading.problems.append(difference(name, volume, anchor, reference, _ONE_GRID))
    elif turned is not volume:
        _note(reading, name, turned.notices[-1])
    return turned


def _take_label(reading: Reading, volume: Volume) -> None:
    try:
        array = whole_numbers(volume.array, "the label")
    except InputError as error:
        reading.problems.append(str(error))
        return
    for notice in volume.notices:
        _note(reading, "the label", notice)
    if reading.images:
        turned = _onto_reference(reading, "the label", Volume(array, volume.affine, volume.header))
        array = array if turned is None else turned.array
    present = array[array != 0]
    found = np.flatnonzero(np.bincount(present)) if array.dtype == np.uint8 else np.unique(present)
    if len(found) > MOST_LABELS:
        reading.problems.append(
            f"the label holds {len(found)} different values, as an image does: give a label map"
        )
        return
    values = {int(value) for value in found}
    contradiction = contradicts(reading.case.convention, values)
    if contradiction:
        reading.problems.append(contradiction)
        return
    reading.values = values
    reading.label = array.astype(np.uint8, copy=False)
    if not values:
        reading.notices.append("the label holds no tumour")
    background = values & set(reading.case.convention.background)
    if background:
        cavity = np.count_nonzero(np.isin(reading.label, list(background)))
        ml = float(cavity * np.prod(volume.spacing) / 1000)
        reading.notices.append(f"{ml:.1f} ml of resection cavity counted as background")
