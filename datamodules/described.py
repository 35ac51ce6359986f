r"""A layout described in YAML: file name patterns with ``{case}``, and what the label values mean.

name: our_hospital
images:                          # relative to data.root; * stands for anything but /
  t1: "{case}/{case}_T1.nii.gz"
  t1ce: "{case}/{case}_T1gd.nii.gz"
  t2: "{case}/{case}_T2.nii.gz"
  flair: {file: "{case}/{case}_all.nii.gz", channel: 3}
label: "{case}/{case}_mask.nii.gz"                    # optional
labels: {necrosis: [1, 5], oedema: 2, enhancing: 3, background: [4]}  # or {whole: 1}
patient: "(.+)_visit\d+"                             # optional, the patient within {case}
prediction: "{case}_mask.nii.gz"                      # optional
"""

import re
from pathlib import Path
from typing import Any

from datamodules.description_files import (
    Channel,
    LabelFile,
    LayoutFile,
    read_yaml,
    validated,
)
from datamodules.layouts import MODALITIES, CaseFiles, ImageFile, LabelConvention, nifti_files
from errors import InputError

_LABELS = (
    "the key labels with three different whole numbers, or lists of them, such as labels: "
    "{necrosis: 1, oedema: 2, enhancing: 4, background: [3]}, or {whole: 1} for masks of the whole "
    "tumour alone"
)
_NEEDS = {
    "": "the keys images and labels and, if need be, name, label, patient and prediction",
    "images": "the key images with a pattern for each of t1, t1ce, t2 and flair, such as t1: "
    "'{case}/{case}_T1.nii.gz'",
    "labels": _LABELS,
}


def find_described(root: Path, description: Path) -> list[CaseFiles]:
    """Examinations below `root` named as the YAML file `description` says, sorted by case id.

    Raises:
        InputError: The description is incomplete, or no file fits it.
    """
    described = _read(description)
    convention = described.labels.convention(described.name or description.stem)
    patterns = {m: _pattern(getattr(described.images, m)) for m in MODALITIES}
    relative = {path.relative_to(root).as_posix(): path for path in nifti_files(root)}
    found: dict[str, dict[str, ImageFile]] = {}
    for modality, (pattern, channel) in patterns.items():
        for case_id, path in _matches(pattern, relative, description, modality).items():
            found.setdefault(case_id, {})[modality] = ImageFile(path, channel)
    labels: dict[str, Path] = {}
    if described.label is not None:
        labels = _matches(_compile(described.label), relative, description, "label")
    if not found:
        raise InputError(
            f"no file below data.root {root} fits the patterns of {description} (images.t1 is "
            f"{described.images.t1.file!r}): correct the patterns."
        )
    name = described.name or description.stem
    prediction = described.prediction or "{case}_seg.nii.gz"
    return [
        CaseFiles(
            case_id=case_id,
            patient_id=_patient(case_id, described.patient, description),
            images=found[case_id],
            label=labels.get(case_id),
            convention=convention,
            layout=name,
            prediction_name=prediction.replace("{case}", case_id),
        )
        for case_id in sorted(found)
    ]


def _read(description: Path) -> LayoutFile:
    return validated(LayoutFile, read_yaml(description, "data.layout"), description, _NEEDS)


def read_labels(path: Path) -> LabelConvention:
    """The meaning of label values that a YAML file gives, a layout's or one of these alone.

    Raises:
        InputError: As `read_convention`, or the file is no YAML.
    """
    return read_convention(read_yaml(path, "the file of label values"), path)


def read_convention(described: Any, description: Path) -> LabelConvention:
    """The meaning of label values that a description gives, under its key ``labels`` or alone.

    Raises:
        InputError: A class has no value, or two have the same, background among them.
    """
    found = validated(LabelFile, described, description, _NEEDS)
    return found.labels.convention(found.name or description.stem)


def _pattern(image: Channel) -> tuple[re.Pattern[str], int | None]:
    return _compile(image.file), image.channel


def _compile(pattern: str) -> re.Pattern[str]:
    """A file name pattern as a regular expression; later ``{case}`` must equal the first."""
    escaped = re.escape(pattern).replace(re.escape("*"), "[^/]*")
    case = re.escape("{case}")
    return re.compile(escaped.replace(case, "(?P<case>[^/]+?)", 1).replace(case, "(?P=case)"))


def _matches(
    pattern: re.Pattern[str], relative: dict[str, Path], description: Path, key: str
) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in relative.items():
        match = pattern.fullmatch(name)
        if match is None:
            continue
        if match["case"] in found:
            raise InputError(
                f"{description} finds two files for {key} of {match['case']}, "
                f"{found[match['case']]} and {path}: narrow the pattern."
            )
        found[match["case"]] = path
    return found


def _patient(case_id: str, pattern: str | None, description: Path) -> str:
    if pattern is None:
        return case_id
    match = re.search(pattern, case_id)
    if match is None or not match.group(1):
        raise InputError(
            f"the patient pattern {pattern!r} of {description} finds no group in the case id "
            f"{case_id}: write one group in parentheses that holds the patient."
        )
    return match.group(1)
