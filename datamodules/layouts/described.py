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

With sessions, {patient} and {session} stand for {case}, which is then <patient>_<session>:
  t1: "sub-{patient}/ses-{session}/anat/*_T1w.nii.gz"
  t1ce: "sub-{patient}/ses-{session}/anat/*_ce-*_T1w.nii.gz"  # more specific than t1: tried first
"""

import re
from pathlib import Path

from datamodules.layouts.case_files import MODALITIES, CaseFiles, ImageFile, nifti_files
from datamodules.layouts.description_files import (
    Channel,
    LayoutFile,
    read_yaml,
    validated,
)
from datamodules.layouts.label_files import LABELS_NEEDED
from datamodules.layouts.placeholders import matching
from errors import InputError

_NEEDS = {
    "": "the keys images and labels and, if need be, name, label, patient and prediction",
    "images": "the key images with a pattern for each of t1, t1ce, t2 and flair, such as t1: "
    "'{case}/{case}_T1.nii.gz'",
    "labels": LABELS_NEEDED,
}


def find_described(root: Path, description: Path) -> list[CaseFiles]:
    """Examinations below `root` named as the YAML file `description` says, sorted by case id.

    Raises:
        InputError: The description is incomplete, or no file fits it.
    """
    described = _read(description)
    convention = described.labels.convention(described.name or description.stem)
    images: dict[str, Channel] = {m: getattr(described.images, m) for m in MODALITIES}
    texts = {modality: image.file for modality, image in images.items()}
    if described.label is not None:
        texts["label"] = described.label
    relative = {path.relative_to(root).as_posix(): path for path in nifti_files(root)}
    files, patients = matching(texts, relative, description)
    found: dict[str, dict[str, ImageFile]] = {}
    for modality, image in images.items():
        for case_id, path in files[modality].items():
            found.setdefault(case_id, {})[modality] = ImageFile(path, image.channel)
    labels = files.get("label", {})
    if not found:
        raise InputError(
            f"no file below data.root {root} fits the patterns of {description} (images.t1 is "
            f"{described.images.t1.file!r}): correct the patterns."
        )
    name = described.name or description.stem
    return [
        CaseFiles(
            case_id=case_id,
            patient_id=patients.get(case_id) or _patient(case_id, described.patient, description),
            images=found[case_id],
            label=labels.get(case_id),
            convention=convention,
            layout=name,
            prediction_name=described.prediction.replace("{case}", case_id),
            place="" if case_id in patients or described.patient else case_id,
        )
        for case_id in sorted(found)
    ]


def _read(description: Path) -> LayoutFile:
    return validated(LayoutFile, read_yaml(description, "data.layout"), description, _NEEDS)


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
