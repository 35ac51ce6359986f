"""Hospital exams: which file of a patient's folder is which sequence, by the names in common use.

Names are cut into tokens, so `P12_T2_FLAIR.nii.gz` is a FLAIR and `p12-t1-post.nii` a T1ce. Only
names are read here, never an image.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.conventions import named_convention
from datamodules.layouts import (
    CANONICAL,
    MODALITIES,
    CaseFiles,
    ImageFile,
    LabelConvention,
    nifti_files,
)
from errors import InputError

EXAM = "exam"
# Drawn labels whose values nobody stated: 1 necrosis, 2 oedema, 3 enhancing; others whole tumour.
UNSTATED = replace(CANONICAL, name="unstated")

_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_T1 = {"t1", "t1n", "t1w", "t1wi", "t1pre", "t1native", "t1mprage", "mprage", "t1mpr", "t1se"}
_T2 = {"t2", "t2w", "t2wi", "t2tse", "t2fse"}
_FLAIR = {"flair", "fla", "t2f", "t2flair", "t2wflair", "flairt2", "flairw"}
_AGENT = {"ce", "c", "gd", "gad", "gado", "gadolinium", "post", "postcontrast", "postgd", "km"}
_AGENT |= {"contrast", "contrasted", "cm", "enhanced", "kontrast"}
_T1CE = {"ct1", "cet1", "t1wce", "t1wgd", "t1wc", "t1wpost"} | {f"t1{agent}" for agent in _AGENT}
_PLAIN = {"pre", "no", "non", "without", "wo", "precontrast", "noncontrast"}
_LABEL = {"seg", "segm", "segmentation", "label", "labels", "labelmap", "mask", "tumor", "tumour"}
_LABEL |= {"lesion", "roi", "gtv", "annotation", "groundtruth", "tumormask", "tumourmask"}
# Sequences and derived maps whose names hold a modality or a label word, yet are neither.
_OTHER = {"adc", "dwi", "dti", "swi", "star", "t2star", "gre", "perf", "perfusion", "dsc", "dce"}
_OTHER |= {"asl", "bold", "map", "mra", "tof", "localizer", "localiser", "scout", "brainmask"}
_WORDS = _T1 | _T2 | _FLAIR | _T1CE
# Folders that say when, not who: their parent is the patient.
_TIME_POINT = re.compile(
    r"(\d{4}[-_.]?\d{2}[-_.]?\d{2}|(ses|session|visit|tp|mr|mri|scan|study|exam|day|week|"
    r"month|v|t)[-_]?\d+|pre|post|pre[-_]?op|post[-_]?op|baseline|follow[-_]?up[-_]?\d*|bl|fu\d*)",
    re.IGNORECASE,
)


def find_exams(root: str | Path, labels: str | None = None) -> list[CaseFiles]:
    """Every exam below `root`, as `sort_exams`, but nothing wrong with any of them.

    Raises:
        InputError: As `sort_exams`, and for every exam that cannot be used, all at once.
    """
    exams, problems = sort_exams(root, labels)
    if problems:
        raise InputError("\n".join(f"{name}: {what}" for name, what in sorted(problems.items())))
    return exams


def sort_exams(
    root: str | Path, labels: str | None = None
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Every hospital exam below `root`, sorted by case id: one folder a patient.

    A folder that directly holds NIfTI files is an exam, named after the folder. Folders between
    do not matter, except that those named after a date or visit are exams of their parent.

    Args:
        root: A folder of patients, or the folder of one patient.
        labels: Convention of drawn labels, a name of `CONVENTIONS` or a YAML file; None: 1
            necrosis, 2 oedema, 3 enhancing tumour, anything else whole tumour.

    Raises:
        InputError: No exam found, or no file of any is recognised.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder: give the folder that holds patients.")
    convention = label_convention(labels)
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in nifti_files(root):
        if not (path.parent / "registration.json").is_file():  # a result of lightning prepare
            folders[path.parent].append(path)
    if not folders:
        raise InputError(
            f"no NIfTI file found below data.root {root}: expected one folder a patient with files "
            "named like t1.nii.gz, t1ce.nii.gz, t2.nii.gz and flair.nii.gz."
        )
    exams, problems = [], {}
    for folder, (case_id, patient_id) in _names(root, list(folders)).items():
        try:
            exams.append(_exam(case_id, patient_id, folders[folder], convention))
        except InputError as error:
            problems[case_id] = str(error)
    if not problems and not any(exam.images for exam in exams):
        first = next(iter(folders.values()))[0]
        raise InputError(
            f"no modality recognised below data.root {root} (the first file is {first.name}): "
            "expected names with t1, t1ce, t2 or flair in them, such as P01_t2.nii.gz."
        )
    return sorted(exams, key=lambda exam: exam.case_id), problems


def single_exam(images: Mapping[str, str | Path]) -> CaseFiles:
    """One unlabelled patient given as files: T2 and at least one other modality, for `predict`.

    Raises:
        InputError: T2 is missing, a modality is unknown, or a file does not exist.
    """
    unknown = sorted(set(images) - set(MODALITIES))
    if unknown or "t2" not in images or len(images) < 2:
        raise InputError(
            f"an exam needs a T2 and at least one of t1, t1ce, flair: got "
            f"{', '.join(sorted(images)) or 'none'}; give --t2 and as many of the others as exist."
        )
    paths = {m: Path(images[m]).expanduser() for m in MODALITIES if m in images}
    for modality, path in paths.items():
        if not path.is_file():
            raise InputError(f"--{modality} {path} is not a file: give a NIfTI image.")
    stems = [_NIFTI.sub("", path.name) for path in paths.values()]
    case_id = os.path.commonprefix(stems)  # noqa: RUF071 - of names, not paths
    case_id = re.sub(r"[-_.]+(t|T)?$", "", case_id)
    if case_id.lower() in ("", "t"):
        case_id = paths["t2"].resolve().parent.name or "patient"
    return CaseFiles(
        case_id=case_id,
        patient_id=case_id,
        images={modality: ImageFile(path) for modality, path in paths.items()},
        label=None,
        convention=UNSTATED,
        layout=EXAM,
        prediction_name=f"{case_id}_seg.nii.gz",
    )


def label_convention(name: str | None) -> LabelConvention:
    """The convention of drawn labels called `name`, or described in that file.

    Raises:
        InputError: There is none of that name.
    """
    return UNSTATED if name is None else named_convention(name, "labels")


def named_modality(label: Path) -> str | None:
    """The modality that a label's file name says it was drawn on; None when it says nothing."""
    found = modalities_of(_telling([label])[label])
    return found[0] if len(found) == 1 else None


def tokens(path: Path) -> list[str]:
    """Lower-case parts of a file name, without its extension."""
    return [t for t in re.split(r"[^a-z0-9]+", _NIFTI.sub("", path.name).lower()) if t]


def modalities_of(words: Sequence[str]) -> list[str]:
    """The modalities that a name's tokens claim: none, one, or several."""
    claimed = set()
    names = set(words)
    if names & _FLAIR:  # before T2: a T2 FLAIR is a FLAIR
        claimed.add("flair")
    elif names & _T2:
        claimed.add("t2")
    for place, word in enumerate(words):
        if word in _T1CE:
            claimed.add("t1ce")
        elif word in _T1:
            claimed.add("t1ce" if _with_agent(words, place) else "t1")
    return sorted(claimed)


def _with_agent(words: Sequence[str], place: int) -> bool:
    """Whether words beside the T1 at `place` say that contrast agent was given."""
    before, after = words[max(0, place - 2) : place], words[place + 1 :]
    if before and before[-1] in _AGENT - {"c"} and before[0] not in _PLAIN:
        return True
    for number, word in enumerate(after):
        if word in _PLAIN:
            return False
        surgery = word == "post" and after[number + 1 : number + 2] in (["op"], ["surgery"])
        if word in _AGENT and not surgery:
            return True
    return False


def _names(root: Path, folders: list[Path]) -> dict[Path, tuple[str, str]]:
    """Case and patient id of every folder; ids that would be shared take their parents' names."""
    named = {}
    for folder in folders:
        parts = [root.resolve().name] if folder == root else list(folder.relative_to(root).parts)
        who = len(parts) - 1
        while who and _TIME_POINT.fullmatch(parts[who]):
            who -= 1
        named[folder] = (parts, who)
    short = Counter("-".join(parts[who:]) for parts, who in named.values())
    ids = {}
    for folder, (parts, who) in named.items():
        start = 0 if short["-".join(parts[who:])] > 1 else who
        case, patient = parts[start:], parts[start : who + 1]
        ids[folder] = (re.sub(r"\s+", "_", "-".join(case)), re.sub(r"\s+", "_", "-".join(patient)))
    return ids


def _exam(
    case_id: str, patient_id: str, paths: Sequence[Path], convention: LabelConvention
) -> CaseFiles:
    """One exam out of the files of its folder."""
    words = _telling(paths)
    images: dict[str, Path] = {}
    labels: list[Path] = []
    strange: list[str] = []
    for path in paths:
        claimed = modalities_of(words[path])
        kind = _kind(words[path], claimed)
        if kind == "label":
            labels.append(path)
        elif kind is None:
            strange.append(path.name)
        elif len(claimed) > 1:
            raise InputError(
                f"{path} names both {' and '.join(claimed)}: rename it so that it "
                "names one modality, or move it out of the folder."
            )
        elif kind in images:
            raise InputError(f"two files for {kind}, {images[kind]} and {path}: leave one of them.")
        else:
            images[kind] = path
    if len(labels) > 1:
        raise InputError(f"two labels, {labels[0]} and {labels[1]}: leave one of them.")
    notices = [f"file not recognised and left out: {', '.join(strange)}"] if strange else []
    return CaseFiles(
        case_id=case_id,
        patient_id=patient_id,
        images={m: ImageFile(images[m]) for m in MODALITIES if m in images},
        label=labels[0] if labels else None,
        convention=convention,
        layout=EXAM,
        prediction_name=f"{case_id}_seg.nii.gz",
        notices=tuple(notices),
    )


def _kind(words: Sequence[str], claimed: Sequence[str]) -> str | None:
    """What a file is: a modality, "label", or None."""
    names = set(words)
    if names & _OTHER or (names & {"brain", "bet", "hdbet", "skull"} and "mask" in names):
        return None
    if names & _LABEL:
        return "label"
    return claimed[0] if claimed else None


def _telling(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """Tokens of every file without those that tell nothing.

    The folder's own name in front of a file's, and words that all files share, belong to the
    patient: `tumor_012_t1.nii.gz` is no label when its neighbours are called `tumor_012` too.
    """
    folder = tokens(Path(paths[0].parent.name))
    words = {}
    for path in paths:
        found = tokens(path)
        stripped = found[len(folder) :] if found[: len(folder)] == folder else found
        words[path] = stripped or found
    if len(paths) > 1:
        shared = set.intersection(*(set(found) for found in words.values())) - _WORDS
        words = {path: [w for w in found if w not in shared] for path, found in words.items()}
    return words
