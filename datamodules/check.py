"""Examination of a cohort in a layout, of registered patients, or of raw exams."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datamodules.cases.checks import duplicates, examine
from datamodules.cases.reading import Reading
from datamodules.exams.sequence_names import sort_exams
from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.conventions import LabelConvention
from datamodules.layouts.label_values import misread, remarks
from datamodules.patients.find import find_cases
from datamodules.patients.grouping import one_person, regroup
from datamodules.patients.left_out import left_out
from datamodules.registration.folder import is_registered, sort_registered
from datamodules.registration.patient import exam_problems
from datamodules.slices.sources import recognise
from errors import InputError
from files import cores
from progress import Bar


@dataclass(frozen=True)
class Examination:
    """The findings about a cohort's cases.

    Args:
        cases: the cases that were found and read.
        problems: case id to why the case cannot be used, of every case.
        notices: case id to notices for the user, of every case.
        patients: case id to patient id, of every case.
        sentences: what concerns more than one case.
        exams: whether the cases are raw exams, whose images may lie on grids of their own.
    """

    cases: list[CaseFiles]
    problems: dict[str, list[str]]
    notices: dict[str, list[str]]
    patients: dict[str, str]
    sentences: list[str]
    exams: bool

    @property
    def bad(self) -> list[str]:
        """Ids of the cases that cannot be used."""
        return [case_id for case_id, wrong in self.problems.items() if wrong]


def examine_cohort(
    root: Path, layout: str | None, labels: str | None, patient: str | None
) -> Examination:
    """Read every case of a cohort and list everything that is wrong with it.

    Args:
        root: The folder of the cohort.
        layout: Name of a layout or a YAML file; None: by the names.
        labels: What label values mean, a name or a YAML file; None: as the layout says.
        patient: Regular expression whose one group finds the patient in a case's path, or None.

    Raises:
        InputError: No case is found.
    """
    found, unclear, exams = find_checkable(root, layout, labels)
    cases, grouping = regroup(found, patient)
    problems: dict[str, list[str]] = {case_id: [what] for case_id, what in unclear.items()}
    notices: dict[str, list[str]] = {case_id: [] for case_id in unclear}
    hashes: dict[str, str] = {}
    digests: dict[str, dict[str, str]] = {}
    read: dict[str, tuple[LabelConvention, set[int]]] = {}
    for reading, content in _read(cases, exams):
        case = reading.case
        unlabelled = ["no label"] if case.label is None else []
        problems[case.case_id] = reading.problems
        notices[case.case_id] = reading.notices + unlabelled
        digests[case.case_id] = reading.modality_hashes
        read[case.case_id] = (case.convention, reading.values)
        if content:
            hashes[case.case_id] = content
    for case_id, sentence in (*duplicates(hashes).items(), *misread(read).items()):
        problems[case_id].append(sentence)
    for case_id, sentence in remarks(read).items():
        notices[case_id].append(sentence)
    stated = {case_id: case_id for case_id in unclear}
    stated |= {case.case_id: case.patient_id for case in cases}
    usable = {case_id: held for case_id, held in digests.items() if not problems[case_id]}
    patients, same = one_person(stated, usable)
    sentences = [*grouping, *same, *left_out(root, cases)]
    return Examination(cases, problems, notices, patients, sentences, exams)


def _read(cases: list[CaseFiles], exams: bool) -> Iterator[tuple[Reading, str]]:
    """Yield every case read, without its voxels, and the digest of its images, if usable."""

    def inspect(case: CaseFiles) -> tuple[Reading, str]:
        if exams:  # their images are compared once they are registered
            reading = Reading(case)
            reading.problems += exam_problems(case, "error")
            return reading, ""
        reading = examine(case)
        content = "" if reading.problems else reading.content_hash()
        reading.images.clear()  # frees the voxels; only the findings are kept
        reading.label = reading.brain = None
        return reading, content

    with (
        ThreadPoolExecutor(max(1, cores() // 2)) as pool,
        Bar(pool.map(inspect, cases), desc="checking", total=len(cases)) as bar,
    ):
        yield from bar


def find_checkable(
    root: Path, layout: str | None, labels: str | None
) -> tuple[list[CaseFiles], dict[str, str], bool]:
    """The cases of a cohort in a layout, of a registered folder, or a hospital's exams.

    Args:
        root: The folder of the cohort.
        layout: Name of a layout or a YAML file; None: by the names.
        labels: What label values mean, a name or a YAML file; None: as the layout says.

    Returns:
        The cases, the problem of each other case by its id, and whether they are exams, whose
        images may lie on grids of their own.

    Raises:
        InputError: As `find_cases`, where the folder holds no exams either.
    """
    if layout is None and is_registered(root):
        return *sort_registered(root), False
    try:
        return find_cases(root, layout, labels), {}, False
    except InputError:
        if layout is not None or not root.is_dir() or recognise(root, None) != "exams":
            raise
        try:
            exams, problems = sort_exams(root, labels)
        except InputError:
            exams, problems = [], {}
        if not any(len(exam.images) > 1 for exam in exams):
            raise
    return exams, problems, True
