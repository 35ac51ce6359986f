"""Find the masks in a folder of any tool by case, and the meaning of their values."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.layouts.case_files import (
    NIFTI,
    PROBABILITIES,
    CaseFiles,
    nifti_files,
    probabilities_name,
)
from datamodules.layouts.conventions import CONVENTIONS, LabelConvention
from datamodules.nifti.label_map import looks_like_labels
from datamodules.nifti.volume import read_volume
from datamodules.patients.find import find_cases
from errors import InputError

# A file with such an ending may be an image, or the mask of a time point: the content decides.
_SEQUENCE = re.compile(r"[_-](t1|t1ce|t1gd|t1n|t1c|t1w|t2|t2w|t2f|flair|\d{4})$", re.IGNORECASE)
_PROBABILITIES = re.compile(rf"{PROBABILITIES}$", re.IGNORECASE)
_ON_OTHER_GRID = re.compile(r"[_-]seg_on_(t1|t1ce|flair)$", re.IGNORECASE)  # written by predict
_KIND = r"(seg|segm|segmentation|label|labels|labelmap|mask|pred|prediction|gt)"
_MASK_WORD = re.compile(rf"[_-]{_KIND}$", re.IGNORECASE)  # endings that tools append to case ids
_ONLY_WORD = re.compile(_KIND, re.IGNORECASE)


@dataclass(frozen=True)
class MaskFile:
    """One label map of a folder.

    Args:
        case_id: the examination, by the file's name.
        path: the NIfTI file.
        convention: meaning of its values; None: the file names do not determine it.
        probabilities: 4-D file of region probabilities beside it, or None.
    """

    case_id: str
    path: Path
    convention: LabelConvention | None = None
    probabilities: Path | None = None


@dataclass(frozen=True)
class Pair:
    """A prediction and its reference.

    Args:
        case_id: the examination.
        prediction: label map of any tool.
        reference: label map of the reference.
        prediction_labels: meaning of the prediction's values.
        reference_labels: meaning of the reference's values.
        probabilities: 4-D file of region probabilities, or None.
    """

    case_id: str
    prediction: Path
    reference: Path
    prediction_labels: LabelConvention
    reference_labels: LabelConvention
    probabilities: Path | None = None


@dataclass(frozen=True)
class Masks:
    """The label maps of a folder, and its other files.

    Args:
        by_case: case id to label map.
        images: files that hold grey values.
        others: files that belong to no case, such as probabilities without a mask.
    """

    by_case: dict[str, MaskFile]
    images: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()


def find_masks(folder: Path, option: str) -> Masks:
    """Return the label maps below a folder by case id, and the files that are left out.

    A folder in the layout of a BraTS year, MSD or nnU-Net, or one that ``lightning prepare`` wrote,
    is read as such. In any other, files are expected to be called ``<case>.nii.gz``,
    ``<case>_seg.nii.gz``, ``<case>-mask.nii.gz`` and the like, or ``<case>/seg.nii.gz``. If a name
    fits both an image and a mask, the content decides.

    Args:
        folder: folder of the masks.
        option: command-line option that gave the folder, for messages.

    Raises:
        InputError: if the folder is absent or holds no mask, or one case has two.
    """
    if not folder.is_dir():
        raise InputError(f"--{option} {folder} is not a folder: give the folder of the masks.")
    cases = _known_layout(folder)
    masks = [
        _mask(case.case_id, case.label, case.convention) for case in cases if case.label is not None
    ]
    images: list[Path] = []
    if not masks:
        masks, images = _masks_by_name(list(nifti_files(folder)))
    elif option == "predictions":  # a tool's X.nii.gz beside X_seg.nii.gz, which a layout overlooks
        used = {file.path.resolve() for case in cases for file in case.images.values()}
        used |= {mask.path.resolve() for mask in masks}
        unused = [path for path in nifti_files(folder) if path.resolve() not in used]
        more, images = _masks_by_name(unused)
        known = {mask.case_id for mask in masks}
        masks += [mask for mask in more if mask.case_id in known]
    if not masks:
        raise InputError(
            f"--{option} {folder} holds no label map: expected files such as <case>.nii.gz or "
            "<case>_seg.nii.gz."
        )
    found: dict[str, MaskFile] = {}
    for mask in masks:
        if mask.case_id in found:
            raise InputError(
                f"{mask.case_id} has two masks in --{option}, {found[mask.case_id].path} and "
                f"{mask.path}: leave one of them."
            )
        found[mask.case_id] = mask
    taken = {mask.path.resolve() for mask in masks} | {path.resolve() for path in images}
    taken |= {mask.probabilities.resolve() for mask in masks if mask.probabilities}
    taken |= {file.path.resolve() for case in cases for file in case.images.values()}
    others = [path for path in nifti_files(folder) if path.resolve() not in taken]
    return Masks(dict(sorted(found.items())), tuple(images), tuple(others))


def _masks_by_name(files: Sequence[Path]) -> tuple[list[MaskFile], list[Path]]:
    """Sort files in no known layout into masks and images."""
    by_case: dict[str, list[Path]] = defaultdict(list)
    images = []
    for path in files:
        stem = NIFTI.sub("", path.name)
        if _PROBABILITIES.search(stem) or _ON_OTHER_GRID.search(stem):
            continue
        if _SEQUENCE.search(stem) and not _holds_labels(path):
            images.append(path)
            continue
        case_id = _MASK_WORD.sub("", stem)
        by_case[path.parent.name if _ONLY_WORD.fullmatch(case_id) else case_id].append(path)
    masks = []
    for case_id, paths in by_case.items():
        labels = paths if len(paths) == 1 else [path for path in paths if _holds_labels(path)]
        images += [path for path in paths if path not in labels]
        masks += [_mask(case_id, path) for path in labels]
    return masks, images


def _holds_labels(path: Path) -> bool:
    """Whether a file holds few whole numbers, or is unreadable, which is reported later."""
    try:
        return looks_like_labels(read_volume(path).array)
    except InputError:
        return True


def pair_up(
    predictions: Mapping[str, MaskFile],
    references: Mapping[str, MaskFile],
    prediction_labels: LabelConvention | None = None,
    reference_labels: LabelConvention | None = None,
) -> list[Pair]:
    """Return a pair for every reference that has a prediction, with the meaning of both.

    Args:
        predictions: masks by case id.
        references: masks by case id.
        prediction_labels: meaning of the predictions' values; None: by their file names, else as
            the references.
        reference_labels: meaning of the references' values; None: by their file names.

    Raises:
        InputError: if no prediction belongs to a reference, a prediction is the file of its
            reference, or the meaning of values is unknown.
    """
    common = [case_id for case_id in references if case_id in predictions]
    if not common:
        raise InputError(
            "no prediction belongs to a reference: predictions are called "
            f"{next(iter(predictions))} and the like, references {next(iter(references))}; give "
            "them the same names, with or without _seg."
        )
    pairs = []
    for case_id in common:
        prediction, reference = predictions[case_id], references[case_id]
        if prediction.path.samefile(reference.path):
            raise InputError(
                f"{reference.path} is both the prediction and the reference of {case_id}: give two "
                "folders of different masks."
            )
        theirs = reference_labels or reference.convention
        if theirs is None:
            raise InputError(
                f"the name of {reference.path} does not tell what its values mean: give --labels "
                f"as one of {', '.join(CONVENTIONS)}, or as a YAML file with necrosis, oedema and "
                "enhancing."
            )
        # the references' meaning is the default for predictions in no known layout
        ours = prediction_labels or prediction.convention or theirs
        files = (prediction.path, reference.path)
        pairs.append(Pair(case_id, *files, ours, theirs, prediction.probabilities))
    return pairs


def _known_layout(folder: Path) -> list[CaseFiles]:
    """Return the cases of a folder in a known layout; empty in any other layout."""
    from datamodules.registration.folder import find_registered, is_registered

    if is_registered(folder):  # by `lightning prepare`
        return find_registered(folder)
    images = folder.parent / folder.name.replace("labels", "images")
    beside = folder.name in ("labelsTr", "labelsTs") and images.is_dir()
    try:
        return find_cases(images if beside else folder)
    except InputError:
        return []


def _mask(case_id: str, path: Path, convention: LabelConvention | None = None) -> MaskFile:
    with_seg = f"{NIFTI.sub('', path.name)}{PROBABILITIES}.nii.gz"  # some tools keep the _seg
    beside = [path.with_name(name) for name in (probabilities_name(path.name), with_seg)]
    found = next((file for file in beside if file.is_file()), None)
    return MaskFile(case_id, path, convention, found)
