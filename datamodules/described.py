r"""A layout described in YAML: file name patterns with ``{case}``, and what the label values mean.

name: our_hospital
images:                          # relative to data.root; * stands for anything but /
  t1: "{case}/{case}_T1.nii.gz"
  t1ce: "{case}/{case}_T1gd.nii.gz"
  t2: "{case}/{case}_T2.nii.gz"
  flair: {file: "{case}/{case}_all.nii.gz", channel: 3}
label: "{case}/{case}_mask.nii.gz"                    # optional
labels: {necrosis: 1, oedema: 2, enhancing: 3, background: [4]}
patient: "(.+)_visit\d+"                             # optional, the patient within {case}
prediction: "{case}_mask.nii.gz"                      # optional

With sessions, {patient} and {session} stand for {case}, which is then <patient>_<session>:
  t1: "sub-{patient}/ses-{session}/anat/*_T1w.nii.gz"
  t1ce: "sub-{patient}/ses-{session}/anat/*_ce-*_T1w.nii.gz"  # says more than t1, so it goes first
"""

import re
from pathlib import Path
from typing import Any

import yaml

from datamodules.layouts import MODALITIES, CaseFiles, ImageFile, LabelConvention, nifti_files
from datamodules.placeholders import matching, names_a_case
from datamodules.prediction_names import check_pattern
from errors import InputError

_KEYS = {"name", "images", "label", "labels", "patient", "prediction"}


def find_described(root: Path, description: Path) -> list[CaseFiles]:
    """Examinations below `root` named as the YAML file `description` says, sorted by case id.

    Raises:
        InputError: The description is incomplete, or no file fits it.
    """
    described = _read(description)
    convention = read_convention(described, description)
    patterns = {m: _pattern(described["images"][m], m, description) for m in MODALITIES}
    texts = {modality: pattern for modality, (pattern, _) in patterns.items()}
    label_pattern = described.get("label")
    if label_pattern:
        texts["label"] = _checked(str(label_pattern), "label", description)
    relative = {path.relative_to(root).as_posix(): path for path in nifti_files(root)}
    files, patients = matching(texts, relative, description)
    found: dict[str, dict[str, ImageFile]] = {}
    for modality, (_, channel) in patterns.items():
        for case_id, path in files[modality].items():
            found.setdefault(case_id, {})[modality] = ImageFile(path, channel)
    labels = files.get("label", {})
    if not found:
        raise InputError(
            f"no file below data.root {root} fits the patterns of {description} (images.t1 is "
            f"{described['images']['t1']!r}): correct the patterns."
        )
    name = str(described.get("name", description.stem))
    prediction = check_pattern(described, description)
    return [
        CaseFiles(
            case_id=case_id,
            patient_id=patients.get(case_id)
            or _patient(case_id, described.get("patient"), description),
            images=found[case_id],
            label=labels.get(case_id),
            convention=convention,
            layout=name,
            prediction_name=prediction.replace("{case}", case_id),
            place="" if case_id in patients or described.get("patient") else case_id,
        )
        for case_id in sorted(found)
    ]


def _read(description: Path) -> dict[str, Any]:
    try:
        described = yaml.safe_load(description.expanduser().read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"data.layout {description} cannot be read as YAML ({' '.join(str(error).split())})."
        ) from error
    images = described.get("images") if isinstance(described, dict) else None
    if not isinstance(images, dict) or set(images) != set(MODALITIES):
        raise InputError(
            f"{description} needs the key images with a pattern for each of "
            f"{', '.join(MODALITIES)}, such as t1: '{{case}}/{{case}}_T1.nii.gz'."
        )
    unknown = set(described) - _KEYS
    if unknown:
        raise InputError(
            f"{description} has the unknown key {sorted(unknown)[0]!r}: expected only "
            f"{', '.join(sorted(_KEYS))}."
        )
    return described


def read_convention(described: dict[str, Any], description: Path) -> LabelConvention:
    """The meaning of label values that a description gives under its key ``labels``.

    Raises:
        InputError: A class has no value, or two have the same, background among them.
    """
    given = described.get("labels")
    labels = given if isinstance(given, dict) else {}
    classes = ("necrosis", "oedema", "enhancing")
    background = labels.get("background") or []
    background = background if isinstance(background, list) else [None]
    values = [*(labels.get(key) for key in classes), *background]
    whole = all(type(v) is int and 0 <= v < 256 for v in values)
    if not whole or 0 in values[:3] or len(set(values)) < len(values):
        raise InputError(
            f"{description} needs the key labels with three different whole numbers for "
            "necrosis, oedema and enhancing and, if need be, a list of others for background, "
            "such as labels: {necrosis: 1, oedema: 2, enhancing: 4, background: [3]}."
        )
    return LabelConvention(
        str(described.get("name", description.stem)),
        **{key: int(labels[key]) for key in classes},
        background=tuple(background),
    )


def _pattern(entry: Any, key: str, description: Path) -> tuple[str, int | None]:
    if isinstance(entry, dict) and "file" in entry:
        channel = entry.get("channel")
        return _checked(str(entry["file"]), key, description), (
            None if channel is None else int(channel)
        )
    return _checked(str(entry), key, description), None


def _checked(pattern: str, key: str, description: Path) -> str:
    if not names_a_case(pattern):
        raise InputError(
            f"{description} has no {{case}} in the pattern {pattern!r} of {key}: write {{case}}, "
            "or {patient} and {session}, where the names of exams differ."
        )
    return pattern


def _patient(case_id: str, pattern: str | None, description: Path) -> str:
    if pattern is None:
        return case_id
    match = re.search(pattern, case_id)
    if match is None or not match.groups():
        raise InputError(
            f"the patient pattern {pattern!r} of {description} finds no group in the case id "
            f"{case_id}: write one group in parentheses that holds the patient."
        )
    return match.group(1)
