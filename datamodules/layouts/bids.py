"""Exams named as the Brain Imaging Data Structure (BIDS) does, with sessions or without.

`sub-03/ses-01/anat/sub-03_ses-01_ce-gd_T1w.nii.gz` is a T1ce because of its entity `ce`; without
it `_T1w` is a T1. Labels are `*_dseg`, `*_seg` and `*_mask` files beside the images or below
`derivatives/`. The subject is the patient, unless `participants.tsv` has a column `patient_id`.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from datamodules.layouts.case_files import MODALITIES, CaseFiles, ImageFile
from datamodules.layouts.conventions import CANONICAL, LabelConvention
from errors import InputError

BIDS = "bids"
_NAME = re.compile(
    r"(?P<subject>sub-[A-Za-z0-9]+)(?:_(?P<session>ses-[A-Za-z0-9]+))?"
    r"(?P<entities>(?:_[A-Za-z0-9]+-[A-Za-z0-9]+)*)_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?",
    re.IGNORECASE,
)
_IMAGES = {"t1w": "t1", "t2w": "t2", "flair": "flair"}
_LABELS = ("dseg", "seg", "mask", "label", "roi")
_AGENT = {"ce", "gd", "gad", "gado", "post", "postgd", "postcontrast", "contrast", "t1ce", "t1gd"}
# Masks of anatomy, not of a tumour.
_ANATOMY = {
    "brain",
    "head",
    "skull",
    "csf",
    "gm",
    "wm",
    "tissue",
    "aseg",
    "aparcaseg",
    "lesionfree",
}
_OTHER_PARTS = {"phase", "real", "imag"}
_PERSON = ("patientid", "patient", "subjectid", "subject", "personid", "person")
UNSTATED_MEANING = (
    "all label values are read as 1 necrosis, 2 oedema, 3 enhancing tumour, for BIDS does not say "
    "what they mean: give data.labels where they mean something else"
)


def is_bids(files: Iterable[Path]) -> bool:
    """Whether any file is a T1w, T2w or FLAIR below a folder of its subject."""
    for path in files:
        match = _NAME.fullmatch(path.name)
        if match and match["suffix"].lower() in _IMAGES and match["subject"] in path.parts[:-1]:
            return True
    return False


def find_bids(
    root: Path, files: Iterable[Path], convention: LabelConvention | None
) -> list[CaseFiles]:
    """Find exams as `sort_bids` does, and raise if any of them has a problem.

    Raises:
        InputError: As `sort_bids`, and for every exam whose files are ambiguous, all at once.
    """
    cases, problems = sort_bids(root, files, convention)
    if problems:
        raise InputError("\n".join(f"{name}: {what}" for name, what in sorted(problems.items())))
    return cases


def sort_bids(
    root: Path, files: Iterable[Path], convention: LabelConvention | None
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Return every exam of a BIDS data set, sorted by case id, and the problems of the others.

    Args:
        root: The data set, or a folder in it.
        files: Its NIfTI files.
        convention: What label values mean; None: canonical, with a notice.

    Raises:
        InputError: `participants.tsv` cannot be read.
    """
    people = read_participants(root)
    images: dict[tuple[str, str, str], dict[str, list[Path]]] = defaultdict(
        lambda: defaultdict(list)
    )
    derived: dict[tuple[str, str, str], dict[str, list[Path]]] = defaultdict(
        lambda: defaultdict(list)
    )
    labels: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in files:
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        parts = path.relative_to(root).parts[:-1]
        exam = (match["subject"], match["session"] or "")
        entities = dict(e.lower().split("-", 1) for e in match["entities"].split("_") if e)
        suffix = match["suffix"].lower()
        if suffix in _IMAGES and entities.get("part") not in _OTHER_PARTS:
            where = derived if "derivatives" in parts else images
            where[_data_set(parts, match["subject"]), *exam][_modality(suffix, entities)].append(
                path
            )
        elif suffix in _LABELS and not _ANATOMY & set(entities.values()):
            labels[exam].append(path)
    chosen = images or derived
    if not chosen:
        raise InputError(
            f"no file below data.root {root} is named as BIDS names images: expected names such as "
            "sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz, leave data.layout unset for others."
        )
    several = len({data_set for data_set, _, _ in chosen}) > 1
    cases: list[CaseFiles] = []
    problems: dict[str, str] = {}
    for (data_set, subject, session), by_modality in chosen.items():
        name = "_".join(
            filter(None, (data_set.replace("/", "-") if several else "", subject, session))
        )
        beside = [
            path for path in labels[subject, session] if _belongs(path, root, data_set, several)
        ]
        drawn = [path for path in beside if path.name.lower().split("_")[-1].startswith("dseg")]
        drawn = drawn or beside
        doubled = next((item for item in by_modality.items() if len(item[1]) > 1), None)
        if doubled is not None:
            problems[name] = (
                f"{len(doubled[1])} files for {doubled[0]}, {_listed(root, doubled[1])}: move all "
                "but one out of the folder, or give data.layout a YAML file whose patterns fit one"
            )
            continue
        if len(drawn) > 1:
            problems[name] = (
                f"{len(drawn)} labels, {_listed(root, drawn)}: leave one of them, or give "
                "data.layout a YAML file whose pattern of label fits one"
            )
            continue
        unstated = drawn and convention is None and not any(case.label for case in cases)
        notices = (UNSTATED_MEANING,) if unstated else ()
        patient = people.get(subject)
        cases.append(
            CaseFiles(
                case_id=name,
                patient_id=patient or subject,
                images={m: ImageFile(by_modality[m][0]) for m in MODALITIES if m in by_modality},
                label=drawn[0] if drawn else None,
                convention=convention or replace(CANONICAL, name=BIDS),
                layout=BIDS,
                prediction_name=f"{name}_seg.nii.gz",
                notices=notices,
                place="" if patient else "/".join(filter(None, (data_set, subject, session))),
            )
        )
    return sorted(cases, key=lambda case: case.case_id), problems


def stated_by_participants(root: Path, cases: list[CaseFiles]) -> list[CaseFiles]:
    """Exams in folders of BIDS subjects, of the patients that `participants.tsv` names."""
    if not any(case.patient_id.startswith("sub-") for case in cases):
        return cases
    people = read_participants(root)
    return [
        replace(case, patient_id=people[case.patient_id], place="")
        if case.patient_id in people
        else case
        for case in cases
    ]


def read_participants(root: Path) -> dict[str, str]:
    """The patient of each subject by `participants.tsv`, where a column of it names patients.

    Raises:
        InputError: The file is no table with a column `participant_id`.
    """
    whole = root.resolve()
    above = [f.parent for f in (whole, *whole.parents) if f.name.startswith("sub-")]
    above += [f.parent for f in (whole, *whole.parents) if f.name == "derivatives"]
    places = [folder / "participants.tsv" for folder in (root, *above)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a table ({error}): save it as UTF-8."
        ) from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not rows or "participant_id" not in rows[0]:
        raise InputError(
            f"{path} has no column participant_id: expected a table with tabs between its columns "
            "and their names in the first line."
        )
    header = rows[0]
    plain = [re.sub(r"[-_ ]", "", name.lower()) for name in header]  # PatientID is patient_id
    person = next((header[plain.index(name)] for name in _PERSON if name in plain), None)
    people: dict[str, str] = {}
    if person is None:  # other columns, complete or not, name no patients
        return people
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise InputError(
                f"line {number} of {path} has {len(row)} columns, its first line {len(header)}: "
                "put a tab between columns and n/a where a value is missing."
            )
        subject = row[header.index("participant_id")]
        subject = subject if subject.startswith("sub-") else f"sub-{subject}"
        value = row[header.index(person)]
        if value.lower() in ("", "n/a", "na", "nan"):
            continue
        if people.setdefault(subject, value) != value:
            raise InputError(
                f"{path} names both {people[subject]} and {value} as {person} of {subject}: "
                "leave one of them."
            )
    return people


def _modality(suffix: str, entities: Mapping[str, str]) -> str:
    contrast = "ce" in entities and entities["ce"] not in ("none", "no", "pre")
    entity_words = {entities.get(key, "") for key in ("acq", "rec", "desc")}
    return "t1ce" if suffix == "t1w" and (contrast or entity_words & _AGENT) else _IMAGES[suffix]


def _data_set(parts: tuple[str, ...], subject: str) -> str:
    """Folders above the subject's, which distinguish data sets below one root."""
    above = parts[: parts.index(subject)] if subject in parts else ()
    return "/".join(above[: above.index("derivatives")] if "derivatives" in above else above)


def _belongs(path: Path, root: Path, data_set: str, several: bool) -> bool:
    place = path.relative_to(root).as_posix()
    return not several or place.startswith(f"{data_set}/" if data_set else "")


def _listed(root: Path, paths: list[Path]) -> str:
    return " and ".join(str(path.relative_to(root)) for path in sorted(paths)[:3])
