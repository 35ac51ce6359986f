"""Hospital exams: which file of a patient's folder is which sequence, by the names in common use.

Names are cut into tokens, so `P12_T2_FLAIR.nii.gz` is a FLAIR and `p12-t1-post.nii` a T1ce. Only
names are read here, never an image.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.exams.exam_folders import ExamFiles, case_names, gather
from datamodules.layouts.bids import is_bids, sort_bids, stated_by_participants
from datamodules.layouts.case_files import MODALITIES, CaseFiles, ImageFile, nifti_files
from datamodules.layouts.conventions import CANONICAL, LabelConvention
from datamodules.layouts.label_files import named_convention
from datamodules.patients.grouping import grouped
from errors import InputError

EXAM = "exam"
# Drawn labels without a stated meaning: 1 necrosis, 2 oedema, 3 enhancing; others whole tumour.
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
_LABEL |= {"segmentations", "masks", "annotations", "glistrboost"}
# Sequences and derived maps whose names hold a modality or a label word, yet are neither.
_OTHER = {"adc", "dwi", "dti", "swi", "star", "t2star", "gre", "perf", "perfusion", "dsc", "dce"}
_OTHER |= {"asl", "bold", "map", "mra", "tof", "localizer", "localiser", "scout", "brainmask"}
_OTHER |= {"hardi", "noddi", "cbv", "rcbv", "cbf", "mtt", "ttp", "swan", "qsm", "trace", "eddy"}
# Masks of these show no tumour, unless their names hold a word for it.
_ANATOMY = {"brain", "bet", "hdbet", "skull", "head", "parenchyma", "csf", "wm", "gm", "ventricles"}
_TUMOUR = {"tumor", "tumour", "lesion", "gtv", "tumormask", "tumourmask"}
_BY_HAND = {"manual", "manually", "manuallycorrected", "expert"}
_BIAS = {"bias", "n4", "biascorrected", "unbiased"}
_WORDS = _T1 | _T2 | _FLAIR | _T1CE


def find_exams(root: str | Path, labels: str | None = None) -> list[CaseFiles]:
    """Find exams as `sort_exams` does, and raise if any of them has a problem.

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

    A folder that directly holds NIfTI files is mostly an exam (see `exam_folders`), named after
    the folders below the root; `patients` says which exams are of one patient.

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
    files = [  # without results of lightning prepare
        path for path in nifti_files(root) if not (path.parent / "registration.json").is_file()
    ]
    if is_bids(files):
        exams, problems = sort_bids(root, files, convention)
        exams = [replace(exam, layout=EXAM) for exam in exams]
        return sorted(grouped(exams), key=lambda exam: exam.case_id), problems
    if not files:
        raise InputError(
            f"no NIfTI file found below data.root {root}: expected one folder a patient with files "
            "named like t1.nii.gz, t1ce.nii.gz, t2.nii.gz and flair.nii.gz."
        )
    exams, problems = [], {}
    gathered = gather(root, files, kind_of)
    names = case_names([exam.place for exam in gathered])
    for found in gathered:
        try:
            exams.append(_exam(names[found.place], found, convention))
        except InputError as error:
            problems[names[found.place]] = str(error)
    if not problems and not any(exam.images for exam in exams):
        first = files[0]
        raise InputError(
            f"no modality recognised below data.root {root} (the first file is {first.name}): "
            "expected names with t1, t1ce, t2 or flair in them, such as P01_t2.nii.gz."
        )
    exams = stated_by_participants(root, grouped(exams))
    return sorted(exams, key=lambda exam: exam.case_id), problems


def single_exam(images: Mapping[str, str | Path], labels: str | None = None) -> CaseFiles:
    """One unlabelled patient given as files: T2 and at least one other modality, for `predict`.

    Args:
        images: File of each modality.
        labels: What the values of the mask shall mean; None: 1 necrosis, 2 oedema, 3 enhancing.

    Raises:
        InputError: T2 is missing, a modality or convention is unknown, or a file does not exist.
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
        convention=label_convention(labels),
        layout=EXAM,
        prediction_name=f"{case_id}_seg.nii.gz",
    )


def label_convention(name: str | None) -> LabelConvention:
    """The convention of drawn labels called `name`, or described in that file.

    Raises:
        InputError: There is none of that name.
    """
    return UNSTATED if name is None else named_convention(name, "data.labels")


def named_modality(label: Path) -> str | None:
    """The modality that a label was drawn on, by its file name; None where that holds none."""
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
    """Whether words beside the T1 at `place` mean that contrast agent was given."""
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


def kind_of(path: Path) -> str | None:
    """Return what a file's own name states: a modality, "label", or None."""
    words = tokens(path)
    return _kind(words, modalities_of(words))


def _exam(case_id: str, found: ExamFiles, convention: LabelConvention) -> CaseFiles:
    """One exam out of its files."""
    words = _telling(found.paths)
    images: dict[str, list[Path]] = defaultdict(list)
    labels: list[Path] = []
    strange: list[str] = []
    for path in found.paths:
        claimed = modalities_of(words[path])
        kind = _kind(words[path], claimed)
        if kind is None and not _is_other(words[path]):  # 1_T1/NIFTI/scan.nii.gz
            claimed, kind = _by_folder(path, found.folder)
        if kind == "label":
            labels.append(path)
        elif kind is None:
            strange.append(path.name)
        elif len(claimed) > 1:
            raise InputError(
                f"{path} names both {' and '.join(claimed)}: rename it so that it "
                "names one modality, or move it out of the folder."
            )
        else:
            images[kind].append(path)
    notices = list(found.notices)
    if strange:
        notices.append(f"file not recognised and left out: {', '.join(strange)}")
    for modality, paths in images.items():
        chosen = _corrected(paths, words) if len(paths) > 1 else paths[0]
        if chosen is None:
            raise InputError(
                f"two files for {modality}, {paths[0]} and {paths[1]}: leave one of them."
            )
        if len(paths) > 1:
            others = ", ".join(path.name for path in paths if path != chosen)
            notices.append(f"{chosen.name} taken, being corrected for bias, not {others}")
            images[modality] = [chosen]
    by_hand = [path for path in labels if _BY_HAND & set(tokens(path))]
    if len(labels) > 1 and len(by_hand) != 1:
        raise InputError(f"two labels, {labels[0]} and {labels[1]}: leave one of them.")
    if len(labels) > 1:
        notices.append(f"label {by_hand[0].name} taken, the one that was corrected by hand")
        labels = by_hand
    return CaseFiles(
        case_id=case_id,
        patient_id=case_id,
        images={m: ImageFile(images[m][0]) for m in MODALITIES if m in images},
        label=labels[0] if labels else None,
        convention=convention,
        layout=EXAM,
        prediction_name=f"{case_id}_seg.nii.gz",
        notices=tuple(notices),
        place=found.place,
    )


def _by_folder(path: Path, exam: Path) -> tuple[list[str], str | None]:
    """Return the modalities and the kind that the folders between an exam and a file state."""
    for folder in path.parents:
        if folder == exam or exam not in folder.parents:
            break
        words = tokens(folder)
        claimed = modalities_of(words)
        if _kind(words, claimed) is not None:
            return claimed, _kind(words, claimed)
    return [], None


def _corrected(paths: Sequence[Path], words: Mapping[Path, Sequence[str]]) -> Path | None:
    """The bias-corrected one of two files with otherwise equal names; None for other files."""
    corrected = [path for path in paths if _BIAS & set(words[path])]
    bare = {tuple(word for word in words[path] if word not in _BIAS) for path in paths}
    return corrected[0] if len(corrected) == 1 and len(bare) == 1 else None


def _kind(words: Sequence[str], claimed: Sequence[str]) -> str | None:
    """Return the kind of a file: a modality, "label", or None."""
    if _is_other(words):
        return None
    if set(words) & _LABEL:
        return "label"
    return claimed[0] if claimed else None


def _is_other(words: Sequence[str]) -> bool:
    """Whether a name is of another sequence, a derived map, or a mask of anatomy."""
    names = set(words)
    anatomy = names & _ANATOMY and names & _LABEL and not names & _TUMOUR
    return bool(names & _OTHER or anatomy)


def _telling(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """Return the tokens of every file, without those that do not distinguish it.

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
