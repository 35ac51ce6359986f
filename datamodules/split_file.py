"""Files that state which cases are trained on and tested: this program's, nnU-Net's, MONAI's.

Ours has train, val and test; nnU-Net's `splits_final.json` a list of folds; a MONAI data list its
patients by their files, with the number of a fold or in parts.
"""

import re
from collections import Counter
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.layouts.case_files import NIFTI
from errors import InputError
from files import read_json

if TYPE_CHECKING:
    from datamodules.layouts.description_files import DataList, Listed

_KIND = re.compile(r"[_-](t1|t1n|t1ce|t1c|t1gd|t2|t2w|t2f|flair|seg|label|\d{4})$", re.IGNORECASE)

_NEEDED = (
    "the keys train, val and test, each with a list of case ids, or nnU-Net's list of folds with "
    "train and val, or MONAI's training with a fold a patient"
)


@dataclass(frozen=True)
class Parts:
    """The parts of a split that a file states.

    Args:
        train: Cases that are trained on.
        test: Cases that are tested.
        val: Cases that select the checkpoint; None where they are cut from `train`.
    """

    train: list[str]
    test: list[str]
    val: list[str] | None = None


def read_parts(path: Path, cases: Collection[str], fold: int) -> Parts:
    """The parts a file names, as case ids.

    Of nnU-Net's folds, `val` is tested, or `test` where a fold names some. Of MONAI's, the fold is
    tested, or selects the checkpoint where the list names test cases with labels.

    Args:
        path: The file.
        cases: Ids of the labelled cases.
        fold: Which fold, from 0.

    Raises:
        InputError: The file holds something else, or names a case twice or one that is not there.
    """
    from datamodules.layouts.description_files import DataList, SplitFolds, SplitParts, validated

    content = read_json(path)
    if isinstance(content, list):
        folds = validated(SplitFolds, content, path, _NEEDED).root
        chosen = folds[_in_range(path, fold, len(folds))]
        parts = Parts(chosen.train, chosen.val)
        if chosen.test is not None:
            parts = Parts(chosen.train, chosen.test, chosen.val)
    elif isinstance(content, dict) and "training" in content:
        parts = _of_list(validated(DataList, content, path, _NEEDED), path, cases, fold)
    else:
        given = validated(SplitParts, content, path, _NEEDED)
        _refuse_fold(path, fold)
        parts = Parts(given.train, given.test, given.val)
    named = {"train": parts.train, "val": parts.val, "test": parts.test}
    ids = {part: [_known(entry, cases) for entry in names or ()] for part, names in named.items()}
    unknown = sorted({i for part in ids.values() for i in part if i not in cases})
    if unknown:
        raise InputError(
            f"{path} names {len(unknown)} cases that are not among the labelled ones below "
            f"data.root ({', '.join(unknown[:5])}): correct the file or the root, whose cases have "
            f"such names as {', '.join(sorted(cases)[:3])}."
        )
    for part, listed in ids.items():
        repeated = sorted(case_id for case_id, times in Counter(listed).items() if times > 1)
        if repeated:
            raise InputError(
                f"{path} names {', '.join(repeated[:5])} more than once in {part}: keep each case "
                "once."
            )
    return Parts(ids["train"], ids["test"], None if parts.val is None else ids["val"])


def _in_range(path: Path, fold: int, folds: int) -> int:
    if not 0 <= fold < folds:
        raise InputError(
            f"data.fold is {fold}, but {path} holds {folds} folds: give 0 to {folds - 1}."
        )
    return fold


def _refuse_fold(path: Path, fold: int) -> None:
    """Refuse the number of a fold where a file holds one split."""
    if fold != 0:
        raise InputError(
            f"data.fold is {fold}, but {path} holds one split without folds: leave data.fold out."
        )


def _of_list(listed: "DataList", path: Path, cases: Container[str], fold: int) -> Parts:
    """The parts of a MONAI data list."""

    def ids(patients: "Sequence[Listed]") -> list[str]:
        return [_patient(patient, cases) for patient in patients]

    tested = ids([*listed.test, *listed.testing])
    labelled = [case_id for case_id in tested if case_id in cases]
    if tested and labelled and len(labelled) < len(tested):
        unknown = [case_id for case_id in tested if case_id not in cases]
        raise InputError(
            f"{path} names test cases with and without a label below data.root "
            f"({', '.join(unknown[:5])}): keep those with one, or none."
        )
    folds = [patient.fold for patient in listed.training]
    numbers = [number for number in folds if number is not None]
    if numbers and len(numbers) < len(folds):
        raise InputError(
            f"{path} gives {len(folds) - len(numbers)} of {len(folds)} patients in training no "
            "fold: give every patient one, or none."
        )
    if numbers and not listed.validation:
        _in_range(path, fold, max(numbers) + 1)
        inside = ids([p for p in listed.training if p.fold == fold])
        rest = ids([p for p in listed.training if p.fold != fold])
        if not inside or not rest:
            raise InputError(
                f"{path} has {len(inside)} patients in fold {fold} and {len(rest)} in others: give "
                "data.fold one of its folds."
            )
        return Parts(rest, labelled, inside) if labelled else Parts(rest, inside)
    if not listed.validation or not labelled:
        raise InputError(
            f"{path} is a MONAI data list without folds, and without labelled patients under both "
            "validation and test: give every patient in training a fold, or add these parts."
        )
    _refuse_fold(path, fold)
    return Parts(ids(listed.training), labelled, ids(listed.validation))


def _patient(listed: "Listed", cases: Container[str]) -> str:
    """Return the case id of a data list's patient; its first file where no case fits."""
    names = [_known(name, cases) for name in listed.image]
    return next((name for name in names if name in cases), names[0])


def _known(entry: str, cases: Container[str]) -> str:
    """Return the case id for an id, a file name or a path; the entry itself where none fits."""
    if entry in cases:
        return entry
    path = Path(entry.replace("\\", "/"))
    stem = NIFTI.sub("", path.name)
    candidates = (stem, _KIND.sub("", stem), path.parent.name)
    return next((name for name in candidates if name in cases), entry)
