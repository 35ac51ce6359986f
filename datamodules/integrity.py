"""What must be true of a case before it is used, and the `lightning check` command.

A case is read once; `examine` lists everything wrong with it, and the cache prepares the same
reading. Problems are found for all cases at once and reported one line a case.
"""

import argparse
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.bar import make_bar
from datamodules.geometry import (
    bounding_box,
    canonical_view,
    corner_distance,
    orientation_of,
)
from datamodules.head import head_mask
from datamodules.label_values import contradicts, misread, remarks
from datamodules.layouts import (
    MODALITIES,
    CaseFiles,
    LabelConvention,
    find_cases,
)
from datamodules.preparation import Missing
from datamodules.reading import Volume, read_volume
from errors import InputError

AFFINE_TOLERANCE = 0.1  # mm that the corners of two modalities' grids may lie apart
HEAD_VOLUME = 2500.0  # ml; the largest brains measure 2000 ml, a head with skull and skin 3500 ml
HEAD_FRACTION = 0.95  # of the grid; a skull-stripped brain leaves far more of its grid at 0

Array = npt.NDArray[Any]


class Reading:
    """A case in memory: its volumes, what is wrong with them, and what they are known by.

    Attributes:
        images: Modality to volume, on the grid of the files.
        label: Label map, whole numbers, or None.
        values: Those of the label other than 0.
        brain: Voxels where any modality is not 0; of a whole head, the head.
        shows_head: Whether the images show skull and skin, and that was allowed.
        problems: Why the case cannot be used; empty when it can.
        notices: What a person should know about a usable case.
    """

    def __init__(self, case: CaseFiles) -> None:
        self.case = case
        self.images: dict[str, Volume] = {}
        self.label: Array | None = None
        self.values: set[int] = set()
        self.brain: npt.NDArray[np.bool_] | None = None
        self.shows_head = False
        self.problems: list[str] = []
        self.notices: list[str] = list(case.notices)

    @property
    def reference(self) -> Volume:
        """The volume whose grid stands for the case."""
        return next(iter(self.images.values()))

    def content_hash(self) -> str:
        """Digest of the voxel values in canonical order, whatever the name, type or compression.

        Taken over the brain box, so a zero margin cut off elsewhere does not hide a patient.
        """
        assert self.brain is not None  # set by `examine` for every case without problems
        orientation = orientation_of(self.reference.affine)
        start, size = bounding_box(canonical_view(self.brain, orientation))
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))

        def part(modality: str) -> str:
            if modality not in self.images:
                return f"no {modality}"
            return digest(canonical_view(self.images[modality].array, orientation)[box])

        with ThreadPoolExecutor(len(MODALITIES)) as pool:
            return combine(pool.map(part, MODALITIES))

    def label_hash(self) -> str:
        """Digest of the label map in canonical order; empty when there is none."""
        if self.label is None:
            return ""
        return digest(canonical_view(self.label, orientation_of(self.reference.affine)))


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
        volume = volumes.get(image.path)
        if volume is not None:
            _take_image(reading, modality, image.channel, volume)
    _check_grids(reading)
    if case.label is not None and case.label in volumes:
        _take_label(reading, volumes[case.label])
    if not reading.problems:
        brain = reading.reference.array != 0
        for volume in reading.images.values():
            brain |= volume.array != 0
        reading.brain = brain
        head = _whole_head(reading)
        if head and whole_head:
            reading.shows_head = True
            reading.brain = head_mask(volume.array for volume in reading.images.values())
            reading.notices.append("shows a whole head: intensities are taken inside the head")
        elif head:
            reading.problems.append(f"{head}: a skull-stripper such as HD-BET comes first")
    return reading


def digest(array: Array) -> str:
    """Digest of an array's values and shape; whole numbers digest alike in every type."""
    if array.dtype.kind == "f":
        whole = np.rint(array)
        array = whole if np.array_equal(whole, array) else array.astype(np.float32)
    if array.size and array.dtype.kind in "fiu" and not _fractional(array):
        small = array.min() >= -32768 and array.max() <= 32767
        array = array.astype(np.int16 if small else np.int64)
    state = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    # Canonical views of NIfTI arrays are Fortran-ordered: their transpose is cheap to lay out.
    state.update(np.ascontiguousarray(array.T).data)
    return state.hexdigest()


def combine(parts: Any) -> str:
    """One digest of several."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def duplicates(hashes: dict[str, str]) -> dict[str, str]:
    """Problem of each case whose images another case holds too: case id to sentence."""
    by_hash: dict[str, list[str]] = defaultdict(list)
    for case_id, content in sorted(hashes.items()):
        by_hash[content].append(case_id)
    return {
        case_id: f"holds the same images as {', '.join(o for o in same if o != case_id)}: keep one"
        for same in by_hash.values()
        if len(same) > 1
        for case_id in same
    }


def _fractional(array: Array) -> bool:
    return array.dtype.kind == "f" and not np.array_equal(np.rint(array), array)


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
        reading.problems.append(f"{modality} is {array.ndim}-D {array.shape}, expected 3-D")
        return
    if array.dtype.kind not in "iuf":
        reading.problems.append(f"{modality} holds {array.dtype}, expected a grey value a voxel")
        return
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        reading.problems.append(f"{modality} holds NaN or Inf")
        return
    if array.min() == array.max():
        reading.problems.append(f"{modality} is empty (all voxels {array.min():g})")
        return
    reading.images[modality] = Volume(array, volume.affine, volume.header)


def _check_grids(reading: Reading) -> None:
    """Shapes, affines: the modalities of a BraTS case lie on one grid."""
    if not reading.images:
        return
    anchor, reference = next(iter(reading.images.items()))
    if not np.isfinite(reference.affine).all() or abs(np.linalg.det(reference.affine)) < 1e-6:
        reading.problems.append(f"{anchor} has an affine that describes no grid")
        return
    for modality, volume in list(reading.images.items())[1:]:
        _compare_grid(reading, modality, volume, anchor, reference)


def _compare_grid(
    reading: Reading, name: str, volume: Volume, anchor: str, reference: Volume
) -> None:
    if volume.array.shape != reference.array.shape:
        reading.problems.append(
            f"{name} has the shape {volume.array.shape}, {anchor} {reference.array.shape}: "
            "register them to one grid"
        )
        return
    distance = corner_distance(volume.affine, reference.affine, reference.array.shape[:3])
    if not distance <= AFFINE_TOLERANCE:
        reading.problems.append(
            f"the affines of {name} and {anchor} put their corners {distance:.1f} mm apart: "
            "register them to one grid"
        )


def _take_label(reading: Reading, volume: Volume) -> None:
    array = volume.array
    if array.ndim != 3 or array.dtype.kind not in "iuf":
        reading.problems.append(
            f"the label is {array.ndim}-D {array.shape} of {array.dtype}, expected 3-D whole "
            "numbers: one map of label values, not a channel for each region or a picture"
        )
        return
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        reading.problems.append("the label holds NaN or Inf")
        return
    if reading.images:
        anchor, reference = next(iter(reading.images.items()))
        _compare_grid(reading, "the label", volume, anchor, reference)
    present = array[array != 0]
    found = np.flatnonzero(np.bincount(present)) if array.dtype == np.uint8 else np.unique(present)
    if _fractional(found):
        reading.problems.append(
            f"the label holds {found[found != np.rint(found)][0]:g}, expected whole numbers"
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


def _whole_head(reading: Reading) -> str:
    """How the images show that they hold more than the brain; empty when they do not."""
    ml = float(np.prod(reading.reference.spacing)) / 1000
    for modality in MODALITIES:
        if modality not in reading.images:
            continue
        array = reading.images[modality].array
        inside = int(np.count_nonzero(array))
        fraction = inside / array.size
        if fraction > HEAD_FRACTION or inside * ml > HEAD_VOLUME:
            return (
                f"{modality} shows a whole head ({fraction:.0%} of the grid and "
                f"{inside * ml:.0f} ml are not 0)"
            )
    return ""


def main(argv: Sequence[str]) -> int:
    """The `lightning check` command: every case examined, one table, 1 when any is bad."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="lightning check", description="Check every case of a cohort before training on it."
    )
    parser.add_argument("--data.root", dest="root", required=True, help="folder of the cohort")
    parser.add_argument("--data.layout", dest="layout", help="layout name or YAML file")
    parser.add_argument(
        "--data.labels", dest="labels", help="what label values mean: a layout's name or YAML file"
    )
    options = parser.parse_args(list(argv))
    cases = find_cases(options.root, options.layout, options.labels)
    problems: dict[str, list[str]] = {}
    notices: dict[str, list[str]] = {}
    hashes: dict[str, str] = {}
    labels: dict[str, tuple[LabelConvention, set[int]]] = {}

    def inspect(case: CaseFiles) -> tuple[Reading, str]:
        reading = examine(case)
        content = "" if reading.problems else reading.content_hash()
        reading.images.clear()  # what is kept of a case is small
        reading.label = reading.brain = None
        return reading, content

    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        checked = pool.map(inspect, cases)
        progress = make_bar(checked, desc="checking", total=len(cases), unit="case")
        for reading, content in progress:
            case = reading.case
            unlabelled = ["no label"] if case.label is None else []
            problems[case.case_id] = reading.problems
            notices[case.case_id] = reading.notices + unlabelled
            labels[case.case_id] = (case.convention, reading.values)
            if content:
                hashes[case.case_id] = content
    for case_id, sentence in (*duplicates(hashes).items(), *misread(labels).items()):
        problems[case_id].append(sentence)
    for case_id, sentence in remarks(labels).items():
        notices[case_id].append(sentence)
    bad = [case_id for case_id, wrong in problems.items() if wrong]
    # In a file or a pipe every case keeps to its line; a terminal folds what is too long for it.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(_table(problems, notices))
    layouts = ", ".join(sorted({case.layout for case in cases}))
    meanings = sorted({case.convention.describe() for case in cases})
    console.print(f"labels read as {' or '.join(meanings)}")
    console.print(f"{len(cases)} cases ({layouts}), {len(bad)} of them bad")
    return 1 if bad else 0


def _table(problems: dict[str, list[str]], notices: dict[str, list[str]]) -> Any:
    """Every case: the bad ones first, then those with a notice, then the good ones."""
    from rich.table import Column, Table

    table = Table("case", "state", Column("what", overflow="fold"))
    for case_id, wrong in problems.items():
        if wrong:
            table.add_row(case_id, "[red]bad[/red]", "; ".join(wrong))
    for case_id, known in notices.items():
        if known and not problems[case_id]:
            table.add_row(case_id, "notice", "; ".join(known))
    for case_id, wrong in problems.items():
        if not wrong and not notices[case_id]:
            table.add_row(case_id, "[green]good[/green]", "")
    return table
