"""Patients in the folders of the Medical Segmentation Decathlon and of nnU-Net's raw data.

Both keep `imagesTr`, `labelsTr` and a `dataset.json`; nnU-Net writes one file a channel
(`*_0000.nii.gz`), MSD Task01 one 4-D file a patient.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.layouts.brats import patient_of
from datamodules.layouts.case_files import MODALITIES, NIFTI, CaseFiles, ImageFile, nifti_files
from datamodules.layouts.conventions import CLASSES, MSD, LabelConvention
from datamodules.layouts.description_files import DatasetFile, validated
from errors import InputError
from files import read_json

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})\.nii(\.gz)?$", re.IGNORECASE)
_MSD_ORDER = {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}
_ALIASES = {
    "flair": {"flair", "t2f", "t2flair", "fla"},
    "t1ce": {"t1ce", "t1gd", "t1c", "t1post", "t1contrast", "t1wce", "t1ka", "t1km", "t1cont"},
    "t1": {"t1", "t1w", "t1n", "t1native", "t1pre"},
    "t2": {"t2", "t2w"},
}
_WHOLE = {"wt", "tumor", "tumour", "glioma", "lesion"}
_NECROSIS = {"ncr", "net", "netc", "ncrnet", "nc", "cc"}
_NEEDS = {
    "": "an object with channel_names and labels, as nnU-Net's, or with modality and labels",
    "channel_names": 'channel_names such as {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}',
    "modality": 'modality such as {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}',
    "labels": 'labels such as {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3}',
}


def find_collection(root: Path, folder: Path | None, layout: str | None) -> list[CaseFiles]:
    """Examinations of an MSD or nnU-Net folder, sorted by case id.

    Args:
        root: The folder that holds `imagesTr`, `labelsTr` and `dataset.json`.
        folder: Which of its image folders to read; None: `imagesTr`, else `imagesTs`.
        layout: `msd`, `nnunet`, or None to go by the names of the files.

    Raises:
        InputError: `dataset.json` does not state what the channels or label values mean.
    """
    if folder is None:
        folder = next((root / n for n in ("imagesTr", "imagesTs") if (root / n).is_dir()), root)
    files = list(nifti_files(folder))
    if not files:
        raise InputError(f"{folder} holds no NIfTI file: give the folder of the data set.")
    by_channel = [_CHANNEL.fullmatch(path.name) for path in files]
    if layout is None:
        layout = "nnunet" if any(by_channel) else "msd"
    if any(by_channel) and not all(by_channel):
        stray = next(path for path, match in zip(files, by_channel, strict=True) if match is None)
        raise InputError(
            f"{stray} stands beside nnU-Net files (*_0000.nii.gz) without a channel number: "
            "remove it or give data.layout a YAML file."
        )
    description = root / "dataset.json"
    content = read_json(description) if description.is_file() else {}
    meaning = read_meaning(content, description)
    labels = root / folder.name.replace("images", "labels")
    if layout == "msd":
        return _msd(files, labels, meaning, description)
    return _nnunet(files, labels, meaning, description)


def read_meaning(content: Any, where: Path) -> DatasetFile:
    """Channels and labels of a `dataset.json`.

    Raises:
        InputError: A key holds something else.
    """
    return validated(DatasetFile, content, where, _NEEDS)


def _msd(files: list[Path], labels: Path, meaning: DatasetFile, where: Path) -> list[CaseFiles]:
    """One 4-D file an examination."""
    channels = channel_numbers(meaning.modality, where) if meaning.modality else _MSD_ORDER
    convention = label_convention(meaning.labels, "msd", where) if meaning.labels else MSD
    found: dict[str, Path] = {}
    for path in files:
        _add(found, NIFTI.sub("", path.name), path)
    label_of = _labels(labels)
    cases = []
    for case_id, path in found.items():
        images = {modality: ImageFile(path, channels[modality]) for modality in MODALITIES}
        cases.append(_case(case_id, images, label_of.get(case_id), convention, "msd", path))
    return sorted(cases, key=lambda case: case.case_id)


def _nnunet(files: list[Path], labels: Path, meaning: DatasetFile, where: Path) -> list[CaseFiles]:
    """One file a channel, four channels an examination."""
    named = meaning.channel_names or meaning.modality
    if not named or not meaning.labels:
        raise InputError(
            f"{where} does not tell what the channels and label values of these nnU-Net files "
            "mean: give it channel_names and labels, or give data.layout a YAML file."
        )
    channels = channel_numbers(named, where)
    convention = label_convention(meaning.labels, "nnunet", where)
    each: dict[str, Path] = {}
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in files:
        match = _CHANNEL.fullmatch(path.name)
        if match is not None:
            _add(each, NIFTI.sub("", path.name), path)
            found[match["case"]][int(match["channel"])] = path
    label_of = _labels(labels)
    cases = []
    for case_id, by_channel in found.items():
        images = {
            modality: ImageFile(by_channel[channel])
            for modality, channel in channels.items()
            if channel in by_channel
        }
        anchor = next(iter(by_channel.values()))
        label = label_of.get(case_id)
        cases.append(_case(case_id, images, label, convention, "nnunet", anchor))
    return sorted(cases, key=lambda case: case.case_id)


def _case(
    case_id: str,
    images: dict[str, ImageFile],
    label: Path | None,
    convention: LabelConvention,
    layout: str,
    anchor: Path,
) -> CaseFiles:
    extension = ".nii.gz" if anchor.name.lower().endswith(".gz") else ".nii"
    return CaseFiles(
        case_id=case_id,
        patient_id=patient_of(case_id),
        images=images,
        label=label,
        convention=convention,
        layout=layout,
        prediction_name=f"{case_id}{extension}",
        place=case_id,
    )


def _labels(folder: Path) -> dict[str, Path]:
    """The label maps of a folder by case id, compressed or not.

    Raises:
        InputError: A case has two.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if NIFTI.search(path.name) and not path.name.startswith("."):
            _add(found, NIFTI.sub("", path.name), path)
    return found


def _add(found: dict[str, Path], case_id: str, path: Path) -> None:
    """Note the file of a case.

    Raises:
        InputError: It has one already, such as `.nii` beside `.nii.gz`.
    """
    other = found.setdefault(case_id, path)
    if other != path:
        raise InputError(f"{case_id} has two files, {other} and {path}: leave one of them.")


def channel_numbers(named: Mapping[str, str], where: Path) -> dict[str, int]:
    """Channel number of each modality, read from names such as ``t1gd`` or ``T2w``.

    Raises:
        InputError: A modality is not among the names, or is there twice.
    """
    channels: dict[str, int] = {}
    for number, name in named.items():
        plain = re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("mri")
        modality = next((m for m, aliases in _ALIASES.items() if plain in aliases), None)
        if modality in channels:
            raise InputError(
                f"{where} names the channels {channels[modality]} and {int(number)} both "
                f"{modality}: leave one of them."
            )
        if modality is not None:
            channels[modality] = int(number)
    missing = [modality for modality in MODALITIES if modality not in channels]
    if missing:
        raise InputError(
            f"{where} names the channels {', '.join(named.values())}, none of which is "
            f"recognised as {' or '.join(missing)}: name the four t1, t1ce, t2 and flair."
        )
    return channels


def label_convention(labels: Mapping[str, list[int]], name: str, where: Path) -> LabelConvention:
    """Label meaning from `dataset.json`, whose classes or nested regions are named in English.

    Raises:
        InputError: The names do not say which values are oedema, necrosis and enhancing tumour.
    """
    found: dict[str, set[int]] = defaultdict(set)
    for text, values in labels.items():
        found[class_of(text)] |= set(values)
    classes = {kind: values for kind, values in found.items() if kind}
    background = tuple(sorted(classes.pop("cavity", ())))
    if set(classes) == {"WT"} and 0 not in classes["WT"]:  # masks of the whole tumour alone
        whole: LabelConvention = LabelConvention.whole_tumour(
            name, *sorted(classes["WT"]), background=background
        )
        return whole
    parts = _without_regions(classes)
    taken = [0, *(value for values in (*parts.values(), background) for value in values)]
    if set(parts) != set(CLASSES) or not all(parts.values()) or len(set(taken)) < len(taken):
        raise InputError(
            f"{where} has the labels {dict(labels)}, which do not give one value each, or values "
            "of their own, to oedema, necrosis (non-enhancing core) and enhancing tumour, or "
            "regions that lie in one another: name them so, or give data.layout a YAML file."
        )
    single = {kind: tuple(sorted(parts[kind])) for kind in CLASSES}
    return LabelConvention(name, **single, background=background)


def _without_regions(classes: Mapping[str, set[int]]) -> dict[str, set[int]]:
    """The three classes, where some are given as regions: whole tumour, and core within it.

    Returns nothing where a region does not hold what lies in it.
    """
    parts = {kind: values for kind, values in classes.items() if kind in CLASSES}
    core = classes.get("TC", parts.get("necrosis", set()) | parts.get("enhancing", set()))
    for kind, outer, inner in (
        ("necrosis", classes.get("TC"), parts.get("enhancing", set())),
        ("oedema", classes.get("WT"), core),
    ):
        if outer is None:
            continue
        rest = outer - inner
        if not inner <= outer or parts.setdefault(kind, rest) != rest:
            return {}
    return parts


def class_of(text: str) -> str:
    """Return the class or region that an English label name means; empty for the background."""
    words = re.sub(r"[^a-z]+", " ", text.lower()).strip()
    compact = words.replace(" ", "")
    if compact in ("background", "ignore", ""):
        return ""
    if "cavity" in compact or compact == "rc":
        return "cavity"
    if compact.startswith("whole") or compact in _WHOLE:
        return "WT"
    if "edema" in compact or compact in ("ed", "snfh"):
        return "oedema"
    if re.search("necro|nonenh|cyst", compact) or compact in _NECROSIS:
        return "necrosis"
    if compact in ("tumorcore", "tumourcore", "core", "tc"):
        return "TC"
    if "enhanc" in compact or compact == "et":
        return "enhancing"
    return ""
