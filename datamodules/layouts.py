"""Naming and label meaning of every BraTS year, MSD, nnU-Net raw and layouts described in YAML.

A leaf: it reads file names and small description files, never an image, and anyone may import it.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.conventions import (
    BRATS_3,
    BRATS_4,
    BY_NAME_PEDIATRIC,
    CANONICAL,
    CONVENTIONS,
    MSD,
    PEDIATRIC,
    REGIONS,
    LabelConvention,
    named_convention,
)
from errors import InputError

__all__ = ["BRATS_3", "BRATS_4", "CANONICAL", "MSD", "REGIONS", "LabelConvention"]
MODALITIES = ("t1", "t1ce", "t2", "flair")


@dataclass(frozen=True)
class ImageFile:
    """One modality: a 3-D file, or one channel of a 4-D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class CaseFiles:
    """The files of one examination; `images` lacks the modalities that were not found.

    `place` is where it stands below the root, by which patients are read from names; empty where
    its patient is stated.
    """

    case_id: str
    patient_id: str
    images: dict[str, ImageFile]
    label: Path | None
    convention: LabelConvention
    layout: str
    prediction_name: str
    notices: tuple[str, ...] = field(default=())
    place: str = ""


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
# One collection may hold several: their labels mean the same, their patients are others. Those of
# GoAT are the same patients under new names.
_COMPATIBLE = {"brats2023", "brats2024", "brats-men", "brats-met"}
_RADIOTHERAPY = re.compile(r"brats-men-rt-", re.IGNORECASE)  # T1c and a target volume, no more
OTHER_LAYOUTS = ("msd", "nnunet", "bids")
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)  # ends the name of an image
SEG = re.compile(r"[_-]seg$", re.IGNORECASE)  # ends the name of a mask that is not its case's
PROBABILITIES = "_probabilities"
_SYSTEM = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}  # of a disk, not readable


def find_cases(
    root: str | Path, layout: str | Path | None = None, labels: str | None = None
) -> list[CaseFiles]:
    """Every examination below `root`, sorted by case id.

    Args:
        root: A folder; HGG/LGG or any other folders in between do not matter.
        layout: A name of `LAYOUTS` or `OTHER_LAYOUTS`, a YAML file, or None to go by the names.
        labels: What label values mean, a name of `CONVENTIONS` or a YAML file; None: as the layout.

    Raises:
        InputError: Nothing found, several layouts mixed, or one file found twice.
    """
    from datamodules.grouping import grouped

    stated = named_convention(labels, "data.labels") if labels is not None else None
    cases = grouped(_find_named(Path(root).expanduser(), layout, stated))
    return cases if stated is None else [replace(case, convention=stated) for case in cases]


def _find_named(
    root: Path, layout: str | Path | None, stated: LabelConvention | None
) -> list[CaseFiles]:
    """Every examination below `root` in a layout, its labels meant as the layout says.

    BIDS says nothing of them: its labels mean what is `stated`.
    """
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder: give the folder that holds patients.")
    if layout is not None and str(layout).endswith((".yaml", ".yml")):
        from datamodules.described import find_described

        return find_described(root, Path(layout))
    if layout is not None and layout not in (*LAYOUTS, *OTHER_LAYOUTS):
        known = ", ".join((*LAYOUTS, *OTHER_LAYOUTS))
        raise InputError(
            f"data.layout {layout!r} is unknown: expected one of {known}, or a YAML file."
        )
    files = list(nifti_files(root))
    from datamodules.bids import find_bids, is_bids

    if layout == "bids" or (layout is None and is_bids(files)):
        return find_bids(root, files, stated)
    collection = root.parent if root.name in ("imagesTr", "imagesTs") else root
    is_collection = (collection / "imagesTr").is_dir() or (collection / "imagesTs").is_dir()
    if layout in ("msd", "nnunet") or (layout is None and is_collection):
        from datamodules.decathlon import find_collection

        folder = root if root.name in ("imagesTr", "imagesTs") else None
        return find_collection(collection, folder, None if layout is None else str(layout))
    return _find_brats(root, files, None if layout is None else str(layout))


def patient_of(case_id: str) -> str:
    """The patient an examination belongs to, by the rules of the challenge that named it."""
    for name in layouts_of(case_id):
        found = re.fullmatch(LAYOUTS[name].patient, case_id)
        return found.group(1) if found else case_id
    return case_id


def layouts_of(case_id: str) -> list[str]:
    """The layouts that name examinations so, the one that is taken first."""
    return [name for name, y in LAYOUTS.items() if re.match(y.prefix, case_id, re.IGNORECASE)]


def single_case(
    images: Mapping[str, str | Path], layout: str | None = None, labels: str | None = None
) -> CaseFiles:
    """One unlabelled patient given as four files, for `predict`.

    Args:
        images: Modality to file.
        layout: A name of `LAYOUTS`; None: by the names, else brats2021.
        labels: The label values to write, as in `find_cases`; None: those of the layout.

    Raises:
        InputError: A modality is missing or unknown, or its file does not exist.
    """
    if set(images) != set(MODALITIES):
        raise InputError(
            f"one patient needs the four files {', '.join(MODALITIES)}: got "
            f"{', '.join(sorted(images)) or 'none'}; give all of --t1 --t1ce --t2 --flair."
        )
    paths = {modality: Path(images[modality]).expanduser() for modality in MODALITIES}
    for modality, path in paths.items():
        if not path.is_file():
            raise InputError(f"--{modality} {path} is not a file: give a NIfTI image.")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(
            f"data.layout {layout!r} cannot name one patient's prediction: expected one of "
            f"{', '.join(LAYOUTS)}; data.labels says which label values to write."
        )
    stated = named_convention(labels, "data.labels") if labels is not None else None
    stems = {modality: NIFTI.sub("", path.name) for modality, path in paths.items()}
    case_id = os.path.commonprefix(list(stems.values()))  # noqa: RUF071 - of names, not paths
    case_id = re.sub(r"[-_.]+(t|T)?$", "", case_id) or paths["t1"].parent.name or "patient"
    recognised = layouts_of(case_id)
    _refuse_other_layout(case_id, layout, recognised)
    name = layout or next(iter(recognised), "brats2021")
    return CaseFiles(
        case_id=case_id,
        patient_id=patient_of(case_id),
        images={modality: ImageFile(path) for modality, path in paths.items()},
        label=None,
        convention=stated or LAYOUTS[name].convention,
        layout=name,
        prediction_name=f"{case_id}{LAYOUTS[name].separator}seg.nii.gz",
    )


def probabilities_name(mask_name: str) -> str:
    """Name of the file of region probabilities beside a mask, ``<case>_probabilities.nii.gz``."""
    return f"{SEG.sub('', NIFTI.sub('', mask_name))}{PROBABILITIES}.nii.gz"


def nifti_files(root: Path) -> Iterator[Path]:
    """Every NIfTI file below `root`, links followed once, hidden files left out.

    Raises:
        InputError: A folder cannot be read: what it holds would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable or move it away."
        ) from error

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SYSTEM)
        for name in sorted(names):
            if not name.startswith(".") and NIFTI.search(name):
                yield Path(folder, name)


def _find_brats(root: Path, files: Iterable[Path], given: str | None) -> list[CaseFiles]:
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
        from datamodules.left_out import foreign_images

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
            _refuse_other_layout(case_id, given, layouts_of(case_id))
            return layout, case_id, kind
        if re.match(years.prefix, case_id, re.IGNORECASE):
            return layout, case_id, kind
    return None


def _refuse_other_layout(case_id: str, given: str | None, named: Sequence[str]) -> None:
    """A layout that is given, and contradicts the names, is a mistake: they are of one challenge.

    Raises:
        InputError: They do, and their labels or patients need not agree.
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


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's content that is an object.

    Raises:
        InputError: The file is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object with keys: mend or replace it.")
    return content


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        InputError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): mend or replace it.") from error


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys stand once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return content
