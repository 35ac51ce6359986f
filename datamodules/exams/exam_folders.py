"""Exams below a root: the NIfTI files of each, and its name.

Mostly a folder is an exam. But a collection may keep each sequence in a folder of its own
(`EGD-0001/1_T1/NIFTI/T1.nii.gz`), all labels in another (`images_segm/P1_segm.nii.gz`), several
exams in one (`P1_v1_t1.nii.gz` beside `P1_v2_t1.nii.gz`), and derived images below the exam
(`week-000/HD-GLIO/skull_strip/...`). Only names are read here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.layouts.case_files import NIFTI
from datamodules.patients.exam_names import group
from datamodules.patients.visits import ANY, STORAGE

Kind = Callable[[Path], str | None]  # the modality or "label" that a file's own name claims


@dataclass
class ExamFiles:
    """The files of one exam.

    Args:
        place: Folder names below the root, and the beginning of the files' names where one
            folder holds several exams.
        folder: The folder that stands for the exam.
        paths: Its files.
        notices: What was left out.
    """

    place: str
    folder: Path
    paths: list[Path]
    notices: list[str] = field(default_factory=list)


def gather(root: Path, files: Iterable[Path], kind: Kind) -> list[ExamFiles]:
    """The exams below a root, by the names of folders and files.

    Args:
        root: The folder of the cohort.
        files: Its NIfTI files.
        kind: What a file's own name claims to be.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    homes: dict[Path, list[Path]] = defaultdict(list)
    for folder, paths in by_folder.items():
        homes[_home(root, folder, paths, kind)] += paths
    labels = {f: p for f, p in homes.items() if all(kind(path) == "label" for path in p)}
    exams = []
    for folder, paths in homes.items():
        if folder in labels and len(labels) < len(homes):
            continue
        place = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
        groups = _split(paths, kind)
        for beginning, own in groups.items():
            end = "" if len(groups) == 1 else beginning
            if folder == root and end:
                exams.append(ExamFiles(end, folder, own))
            else:
                exams.append(ExamFiles("/".join(filter(None, (place, end))), folder, own))
    exams = _without_derived(exams, kind)
    if len(labels) < len(homes):
        _hand_out(labels, exams, kind, root)
    return exams


def case_names(places: Sequence[str]) -> dict[str, str]:
    """A name for every exam: short, fit for a file's name, and unique.

    Args:
        places: As in `ExamFiles`.
    """
    patients = group(places).patients
    short = {place: _short(place, patients[place]) for place in places}
    count = Counter(name.casefold() for name in short.values())
    names: dict[str, str] = {}
    taken: set[str] = set()
    for place in sorted(places):
        whole = "-".join(_clean(part) for part in place.split("/"))
        name = short[place] if count[short[place].casefold()] == 1 else whole
        number = 2
        unique = name
        while unique.casefold() in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique.casefold())
        names[place] = unique
    return names


def _short(place: str, patient: str) -> str:
    """An exam's name from its patient's folder on, without folders that only sort files."""
    parts = [part for part in place.split("/") if part]
    bare = re.sub(r"\s+", "_", patient).casefold()
    start = next(
        (n for n, part in enumerate(parts) if bare in re.sub(r"\s+", "_", part).casefold()), 0
    )
    kept = [part for part in parts[start:] if not STORAGE.fullmatch(part)] or parts[-1:]
    # P01/P01_v1 is P01_v1
    kept = [p for n, p in enumerate(kept) if n + 1 == len(kept) or not kept[n + 1].startswith(p)]
    joint = "_" if kept[0].startswith("sub-") else "-"
    return joint.join(map(_clean, kept))


def _clean(part: str) -> str:
    """A part of a name without `_nifti`, `_0000`, spaces and other signs."""
    bare = re.sub(r"[-_. ]+(?:nifti|nii|0000)$", "", part.strip(), flags=re.IGNORECASE)
    return re.sub(r"[^\w.+-]+", "_", bare or part).strip("_.") or "exam"


def _home(root: Path, folder: Path, paths: Sequence[Path], kind: Kind) -> Path:
    """The folder of the exam that a folder of one sequence belongs to."""
    kinds = {kind(path) for path in paths} - {None}
    if len(kinds) > 1 or len(paths) > len(kinds) + 1:
        return folder
    home = folder
    while home != root and (STORAGE.fullmatch(home.name) or _names_a_sequence(home, kind)):
        home = home.parent
    climbed = any(
        _names_a_sequence(f, kind) for f in (folder, *folder.parents) if home in f.parents
    )
    return home if climbed and home != root else folder


def _names_a_sequence(folder: Path, kind: Kind) -> bool:
    """Whether a folder is called after a sequence alone, such as `2_T1GD` or `FLAIR`."""
    bare = re.sub(r"^\d+[-_. ]+", "", folder.name)
    return kind(folder.with_name(f"{bare}.nii")) is not None and bool(
        re.fullmatch(
            r"[A-Za-z]+\d?[A-Za-z]*([-_ ](?:w|ce|gd|flair|post|pre|mask|seg))*", bare, re.I
        )
    )


def _split(paths: Sequence[Path], kind: Kind) -> dict[str, list[Path]]:
    """The exams in one folder by the beginnings of their files' names; mostly one."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[beginning(path, kind)].append(path)
    whole = [
        len({kind(path) for path in own} - {None, "label"}) > 1 and bool(name)
        for name, own in groups.items()
    ]
    return dict(groups) if len(groups) > 1 and all(whole) else {"": list(paths)}


def beginning(path: Path, kind: Kind) -> str:
    """The part of a file's name before its first word for a modality or a label."""
    stem = NIFTI.sub("", path.name)
    for match in re.finditer(r"[A-Za-z0-9]+", stem):
        if match.start() and kind(path.with_name(f"{match.group()}.nii")) is not None:
            return stem[: match.start()].rstrip("-_. ")
    return stem if kind(path) is None else ""


def _without_derived(exams: list[ExamFiles], kind: Kind) -> list[ExamFiles]:
    """Exams without images that were derived from another's, below its folder."""
    complete = {
        exam.folder: exam
        for exam in exams
        if len({kind(p) for p in exam.paths} - {None, "label"}) > 1
    }
    kept = []
    for exam in exams:
        above = next((f for f in exam.folder.parents if f in complete), None)
        if above is None:
            kept.append(exam)
            continue
        between = exam.folder.relative_to(above).parts
        if any(ANY.fullmatch(part) for part in between):  # a later exam of the patient
            kept.append(exam)
            continue
        notice = f"{len(exam.paths)} files below it left out: {'/'.join(between)}"
        complete[above].notices.append(notice)
    return kept


def _hand_out(
    labels: Mapping[Path, Sequence[Path]], exams: Sequence[ExamFiles], kind: Kind, root: Path
) -> None:
    """Give labels that lie in a folder of their own to the exams they lie in or are named after."""
    owners: dict[str, list[ExamFiles]] = defaultdict(list)
    by_folder = {exam.folder: exam for exam in exams}
    for exam in exams:
        for name in {exam.folder.name, exam.place.split("/")[-1], _clean(exam.folder.name)}:
            owners[name.casefold()].append(exam)
    offered: dict[str, list[Path]] = defaultdict(list)
    homeless: list[Path] = []
    for path in sorted(path for paths in labels.values() for path in paths):
        around = next((by_folder[f] for f in path.parents if f in by_folder), None)
        stem = NIFTI.sub("", path.name)
        names = [stem[: match.start()] for match in re.finditer(r"[-_. ]|$", stem)][::-1]
        names += [path.parent.name]
        owner = next((owners[n.casefold()] for n in names if n and n.casefold() in owners), [])
        if around is not None and around.folder != root:
            offered[around.place].append(path)
        elif len({exam.place for exam in owner}) == 1:
            offered[owner[0].place].append(path)
        else:
            homeless.append(path)
    for exam in exams:
        drawn = offered.get(exam.place, [])
        by_hand = [p for p in drawn if "auto" not in p.relative_to(root).as_posix().lower()]
        one = by_hand if len(by_hand) == 1 else drawn
        if not drawn:
            continue
        shown = ", ".join(path.relative_to(root).as_posix() for path in drawn[:3])
        if len(one) > 1 or any(kind(path) == "label" for path in exam.paths):
            exam.notices.append(f"{len(drawn)} labels in other folders left out: {shown}")
            continue
        if len(drawn) > 1:
            exam.notices.append(f"label {one[0]} taken, not one that is called automatic")
        exam.paths += one
    if homeless and exams:
        exams[0].notices.append(
            f"{len(homeless)} labels belong to no exam by their names, such as {homeless[0]}"
        )
