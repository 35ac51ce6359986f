"""Image files below a cohort's root that belong to no case: counted and named."""

import os
from collections.abc import Sequence
from pathlib import Path

from datamodules.layouts.bids import BIDS
from datamodules.layouts.case_files import CaseFiles, nifti_files
from datamodules.nifti.formats import images_of_other_formats
from datamodules.patients.find import OTHER_LAYOUTS

NAMED = 5  # files that a notice names; the others are counted
# Folders of a BIDS data set in which no image of this kind is looked for.
_NOT_ANATOMY = {"derivatives", "sourcedata", "code", "func", "dwi", "fmap", "perf", "pet", "eeg"}
_NOT_ANATOMY |= {"meg", "ieeg", "mrs", "beh"}


def left_out(root: str | Path, cases: Sequence[CaseFiles]) -> list[str]:
    """Sentences about the images below a root that no case uses; none where all are used.

    Args:
        root: Folder of the cohort, as given to `find_cases`.
        cases: What `find_cases` found there.
    """
    root = Path(root).expanduser()
    folders = _folders(root, cases)
    used = {os.path.realpath(path) for case in cases for path in _paths(case)}
    unused = [
        path
        for folder in folders
        for path in nifti_files(folder)
        if os.path.realpath(path) not in used and not _is_elsewhere(path, root, cases)
    ]
    sentences = []
    if unused:
        sentences.append(
            f"{_count(len(unused), 'NIfTI file')} {_belong(len(unused))} no case and "
            f"{_are(len(unused))} left out: {_some(unused, root)}"
        )
    foreign = [
        path
        for folder in folders
        for path in images_of_other_formats(folder)
        if not _is_elsewhere(path, root, cases)
    ]
    if foreign:
        sentences.append(
            f"{_count(len(foreign), 'image')} {_are(len(foreign))} no NIfTI and "
            f"{_are(len(foreign))} left out, convert them if they belong to the cohort: "
            f"{_some(foreign, root)}"
        )
    return sentences


def _folders(root: Path, cases: Sequence[CaseFiles]) -> list[Path]:
    """Folders that are searched for unused images; in a collection, those in use."""
    if not cases or cases[0].layout not in OTHER_LAYOUTS or cases[0].layout == BIDS:
        return [root]
    images = {image.path.parent for case in cases for image in case.images.values()}
    labels = {path.with_name(path.name.replace("images", "labels")) for path in images}
    return sorted(folder for folder in images | labels if folder.is_dir())


def _is_elsewhere(path: Path, root: Path, cases: Sequence[CaseFiles]) -> bool:
    """Whether a file of a BIDS data set lies in a folder of other data, such as `dwi`."""
    bids = bool(cases) and cases[0].layout == BIDS
    return bids and bool(_NOT_ANATOMY & set(path.relative_to(root).parts[:-1]))


def _paths(case: CaseFiles) -> list[Path]:
    images = [image.path for image in case.images.values()]
    return images if case.label is None else [*images, case.label]


def _some(paths: Sequence[Path], root: Path) -> str:
    base = root if root.is_dir() else root.parent
    names = [os.path.relpath(path, base) for path in paths[:NAMED]]
    others = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(names) + others


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _belong(number: int) -> str:
    return "belongs to" if number == 1 else "belong to"
