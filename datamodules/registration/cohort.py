"""A cohort of hospital exams registered patient by patient, in processes side by side."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from datamodules.cases.settings import Missing
from datamodules.layouts.case_files import CaseFiles
from datamodules.registration.folder import SHEET, accept, finished, registered_case, rename
from datamodules.registration.patient import exam_problems, register_patient, sources_of
from errors import InputError
from files import cores, end_with_parent, shared_lock
from progress import Bar

_PAIRS = 3  # sequences registered to T2; more threads for one patient would be idle


def register_cohort(
    exams: Sequence[CaseFiles],
    out: Path,
    *,
    missing: Missing = "error",
    accept_flagged: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[list[CaseFiles], dict[str, str]]:
    """Register every exam to its T2; of finished ones only file sizes and times are read.

    Args:
        exams: The result of `find_exams` or `single_exam`.
        out: Folder to write; one folder a patient in it.
        missing: Whether an exam without one of the modalities besides T2 is a problem.
        accept_flagged: Use registrations that are flagged too; a person has seen their sheets.
        workers: Processes; None: one a usable core.
        progress: Show a progress bar, and problems as soon as they are known.

    Returns:
        The registered cases, and one sentence for each exam that cannot be used.

    Raises:
        InputError: `out` cannot be written, or a setting is out of range.
    """
    _check(exams, out, missing, workers)
    problems: dict[str, str] = {}
    waiting: list[CaseFiles] = []
    for exam in exams:
        wrong = exam_problems(exam, missing)
        try:
            if wrong:
                problems[exam.case_id] = "; ".join(wrong)
            elif finished(out / exam.case_id, sources_of(exam, missing)) is None:
                waiting.append(exam)
        except InputError as error:
            problems[exam.case_id] = str(error)
    with Bar(
        desc="registering exams",
        total=len(waiting),
        disable=not progress or not waiting,
    ) as bar:
        for case_id, problem in problems.items() if progress else ():
            bar.write(f"{case_id}: {problem}", file=sys.stderr)
        for case_id, trouble in _register(waiting, out, missing, workers):
            if trouble:
                problems[case_id] = trouble
                if progress:
                    bar.write(f"{case_id}: {trouble}", file=sys.stderr)
            bar.update()
    cases = []
    for exam in exams:
        if exam.case_id in problems:
            continue
        case = _take(exam, out / exam.case_id, missing, accept_flagged)
        if isinstance(case, str):
            problems[exam.case_id] = case
        else:
            cases.append(case)
    return cases, problems


def _check(exams: Sequence[CaseFiles], out: Path, missing: str, workers: int | None) -> None:
    if missing not in ("error", "zero"):
        raise InputError(f"missing is {missing!r}: expected error, or zero to go on without.")
    if workers is not None and workers < 1:
        raise InputError(f"The number of processes is {workers}; give 1 or more.")
    for exam in exams:
        if any(image.path.parent.resolve() == out.resolve() for image in exam.images.values()):
            raise InputError(f"--out {out} holds the exam itself: give another folder.")
    try:
        (out / ".locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {out} cannot be written ({error.strerror}): give another folder."
        ) from error


def _take(exam: CaseFiles, folder: Path, missing: Missing, accept_flagged: bool) -> CaseFiles | str:
    """Return a finished patient's files, or why they must not be used."""
    try:
        report = finished(folder, sources_of(exam, missing))
    except InputError as error:
        return str(error)
    if report is None:
        return f"its files changed while it was registered: run it again ({folder})"
    report = rename(folder, report, exam)
    if report["flags"] and accept_flagged and not report["accepted"]:
        accept(folder, report)
    elif report["flags"] and not report["accepted"]:
        return (
            f"registration flagged, {'; '.join(report['flags'])}: look at {folder / SHEET}, then "
            "mend or remove the exam, or go on with --data.accept_flagged true"
        )
    return registered_case(folder, report)


def _register(
    exams: Sequence[CaseFiles], out: Path, missing: Missing, workers: int | None
) -> Iterator[tuple[str, str]]:
    """Register exams; yields (case id, problem or "") as they come to an end."""
    usable = workers or cores()
    processes = min(usable, len(exams))
    if processes < 2:  # starting processes would take longer
        for exam in exams:
            yield exam.case_id, _attempt(exam, out, missing, min(usable, _PAIRS))
        return
    threads = max(1, min(usable // processes, _PAIRS))
    pool = ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent)
    try:
        jobs = {pool.submit(_attempt, exam, out, missing, threads): exam for exam in exams}
        for job in as_completed(jobs):
            try:
                yield jobs[job].case_id, job.result()
            except BrokenProcessPool:
                yield (
                    jobs[job].case_id,
                    "a process was killed, perhaps for want of memory: run again with fewer "
                    "--workers, finished patients are kept",
                )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(exam: CaseFiles, out: Path, missing: Missing, threads: int) -> str:
    """Register one exam unless another process just did; return its problem, or ""."""
    folder = out / exam.case_id
    try:
        with shared_lock(out / ".locks" / f"{exam.case_id}.lock"):
            if finished(folder, sources_of(exam, missing)) is None:
                register_patient(exam, folder, missing, threads)
    except InputError as error:
        return str(error).rstrip(".")
    except Exception as error:  # the other patients go on; the sentence names the error
        return f"registration failed ({type(error).__name__}: {error}): report this with the exam"
    return ""
