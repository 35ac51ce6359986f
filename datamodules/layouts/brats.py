"""Names and label values of every BraTS challenge."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.layouts.case_files import MODALITIES, NIFTI, CaseFiles, ImageFile
from datamodules.layouts.conventions import (
    BRATS_4,
    BY_NAME_PEDIATRIC,
    CONVENTIONS,
    PEDIATRIC,
    LabelConvention,
)
from datamodules.nifti.formats import foreign_images
from errors import InputError


@dataclass(frozen=True)
class _Years:
    """Naming shared by some challenges: ``<prefix...><separator><suffix>.nii[.gz]``."""

    prefix: str
    patient: str
    suffixes: Mapping[str, str]
    separator: str
    convention: LabelConvention


_OLD = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair", "seg": "seg"}
_NEW = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}
_PED = r"brats-peds?-"
_TIMED = r"(.+)-\d{3}"  # a patient and the number of the examination
# Until 2019 the last number counts the examinations of a patient, since 2023 the last three digits;
# the post-treatment examinations of 2024 count from 100. Names of GoAT have one number: its tumours
# of all kinds carry the values of 2023. BraTS-MET has a cavity (4) since 2025, under equal names.
# BraTS-PED means 1 non-enhancing, 2 oedema, 3 enhancing in 2023 and something else since 2024: by
# its names alone it is read as since 2024, and refused where no label holds a 4 (`label_values`).
LAYOUTS: dict[str, _Years] = {
    "brats2017": _Years(r"brats17_", r"(.+)_\d+", _OLD, "_", BRATS_4),
    "brats2018": _Years(r"brats18_", r"(.+)_\d+", _OLD, "_", BRATS_4),
    "brats2019": _Years(r"brats19_", r"(.+)_\d+", _OLD, "_", BRATS_4),
    "brats2020": _Years(r"brats20_", r"(.+)", _OLD, "_", BRATS_4),
    "brats2021": _Years(r"brats2021_", r"(.+)", _OLD, "_", BRATS_4),
    **{
        name: _Years(prefix, patient, _NEW, "-", CONVENTIONS[name])
        for name, prefix, patient in (
            ("brats2023", r"brats-(?:gli|ssa)-\d+-0\d\d$", _TIMED),
            ("brats2024", r"brats-(?:gli|ssa)-\d+-[1-9]\d\d$", _TIMED),
            ("brats-men", r"brats-men-(?!rt-)", _TIMED),
            ("brats-met", r"brats-mets?-", _TIMED),
            ("brats-goat", r"brats-goat-\d", r"(.+?)(?:-\d{3})?"),
        )
    },
    "brats-ped": _Years(_PED, _TIMED, _NEW, "-", replace(PEDIATRIC, name=BY_NAME_PEDIATRIC)),
    "brats2023-ped": _Years(_PED, _TIMED, _NEW, "-", CONVENTIONS["brats2023-ped"]),
    "brats2024-ped": _Years(_PED, _TIMED, _NEW, "-", PEDIATRIC),
}
# These may lie in one folder: their labels mean the same, and their patients differ. GoAT is not
# among them, because it holds the same patients under new names.
_COMPATIBLE = {"brats2023", "brats2024", "brats-men", "brats-met"}
_RADIOTHERAPY = re.compile(r"brats-men-rt-", re.IGNORECASE)  # T1c and a target volume, no more


def patient_of(case_id: str) -> str:
    """The patient an examination belongs to, by the rules of the challenge that named it."""
    for name in layouts_of(case_id):
        found = re.fullmatch(LAYOUTS[name].patient, case_id)
        return found.group(1) if found else case_id
    return case_id


def layouts_of(case_id: str) -> list[str]:
    """Return the layouts that such a name fits, the preferred one first."""
    return [name for name, y in LAYOUTS.items() if re.match(y.prefix, case_id, re.IGNORECASE)]


def find_brats(root: Path, files: Iterable[Path], given: str | None) -> list[CaseFiles]:
    """Examinations named in the manner of a BraTS year."""
    files = list(files)
    target = next((path for path in files if _RADIOTHERAPY.match(path.name)), None)
    if target is not None:
        raise InputError(
            f"{target} is of BraTS-MEN-RT, which has one image (T1c) and one target volume a "
            "patient: the four modalities are needed, give the folder of another challenge."
        )
    found: dict[str, dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for path in files:
        match = _brats_name(path, given)
        if match is None:
            continue
        layout, case_id, kind = match
        kinds = found[layout][case_id]
        if kind in kinds:
            raise InputError(
                f"{case_id} has two files for {kind}, {kinds[kind]} and {path}: leave one of them."
            )
        kinds[kind] = path
    if not found:
        seen = f"the first of {len(files)} NIfTI files is {files[0].name}" if files else ""
        seen = seen or foreign_images(root) or "no NIfTI"
        others = sorted({named[0] for path in files if (named := _brats_name(path, None))})
        if others:
            raise InputError(
                f"no patient below data.root {root} is named as data.layout {given}, but as "
                f"{', '.join(others)}: leave data.layout unset, and give data.labels where label "
                "values mean something else."
            )
        raise InputError(
            f"no patient found below data.root {root} ({seen}): expected names such as "
            f"BraTS2021_00006_flair.nii.gz{f' ({given})' if given else ''}, or describe them in a "
            "YAML file given as data.layout."
        )
    if len(found) > 1 and not set(found) <= _COMPATIBLE:
        raise InputError(
            f"data.root {root} mixes layouts ({', '.join(sorted(found))}), whose labels or "
            "patients need not agree: give the folder of one of them."
        )
    cases = [
        _brats_case(case_id, kinds, layout)
        for layout, by_case in found.items()
        for case_id, kinds in by_case.items()
    ]
    return sorted(cases, key=lambda case: case.case_id)


def _brats_name(path: Path, given: str | None) -> tuple[str, str, str] | None:
    """(layout, case id, modality or "seg") of a file, or None when it is named otherwise."""
    stem = NIFTI.sub("", path.name)
    for layout, years in LAYOUTS.items():
        if given is not None and layout != given:
            continue
        case_id, separator, suffix = stem.rpartition(years.separator)
        kind = years.suffixes.get(suffix.lower())
        if not separator or kind is None:
            continue
        if given is not None:
            refuse_other_layout(case_id, given, layouts_of(case_id))
            return layout, case_id, kind
        if re.match(years.prefix, case_id, re.IGNORECASE):
            return layout, case_id, kind
    return None


def refuse_other_layout(case_id: str, given: str | None, named: Sequence[str]) -> None:
    """Refuse a given layout that contradicts the names, which belong to one challenge.

    Raises:
        InputError: The layout is another challenge's, with other labels or patients.
    """
    if given is None or not named or given in named or {given, named[0]} <= _COMPATIBLE:
        return
    meant = {name: f"{name} ({LAYOUTS[name].convention.meaning})" for name in (named[0], given)}
    raise InputError(
        f"{case_id} is named as {meant[named[0]]}, but data.layout is {meant[given]}: give "
        f"{' or '.join(named)} or leave data.layout unset; data.labels says what label values "
        "mean, whatever the names."
    )


def _brats_case(case_id: str, kinds: Mapping[str, Path], layout: str) -> CaseFiles:
    """One examination out of its files, its label looked for under a known wrong name too."""
    years = LAYOUTS[layout]
    images = {modality: ImageFile(kinds[modality]) for modality in MODALITIES if modality in kinds}
    label = kinds.get("seg")
    notices: tuple[str, ...] = ()
    anchor = next(iter(kinds.values()))
    if label is None and anchor.parent.name == case_id:
        # BraTS20_Training_355 was published with its label called W39_1998.09.19_Segm.nii.
        strays = [p for p in sorted(anchor.parent.iterdir()) if re.search(r"_Segm\.nii", p.name)]
        if len(strays) == 1:
            label = strays[0]
            notices = (f"label read from {label.name}, a known wrong name",)
    named = re.match(years.prefix, case_id, re.IGNORECASE)
    found = re.fullmatch(years.patient, case_id) if named else None
    extension = ".nii.gz" if anchor.name.lower().endswith(".gz") else ".nii"
    return CaseFiles(
        case_id=case_id,
        patient_id=found.group(1) if found else case_id,
        images=images,
        label=label,
        convention=years.convention,
        layout=layout,
        prediction_name=f"{case_id}{years.separator}seg{extension}",
        notices=notices,
        place="" if named else case_id,
    )
