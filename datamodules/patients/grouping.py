"""The exams of a cohort grouped by patient: by names, `data.patient` or equal images."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from datamodules.layouts.case_files import CaseFiles
from datamodules.patients.exam_names import group
from errors import InputError


def grouped(cases: Sequence[CaseFiles]) -> list[CaseFiles]:
    """The cases with the patients that their places name; stated patients stay."""
    patients = group(case.place for case in cases if case.place).patients
    return [
        replace(case, patient_id=patients[case.place]) if case.place else case for case in cases
    ]


def regroup(
    cases: Sequence[CaseFiles], pattern: str | None = None
) -> tuple[list[CaseFiles], list[str]]:
    """Return the cases with their patients, and notices about the grouping.

    Args:
        cases: What was found.
        pattern: `data.patient`: an expression with one group that holds the patient, searched in
            each case's place below the root; None: by the names.

    Raises:
        InputError: The pattern is invalid, or finds no patient in some case.
    """
    if pattern is None:
        found = grouped(cases)
        doubts = group(case.place for case in cases if case.place).doubts
        return found, _notice(found, doubts)
    expression = check_pattern(pattern)
    matches = {case.case_id: expression.search(case.place or case.case_id) for case in cases}
    unmatched = [case for case in cases if not _patient(matches[case.case_id])]
    if unmatched:
        first = unmatched[0].place or unmatched[0].case_id
        raise InputError(
            f"data.patient {pattern!r} finds no patient in {len(unmatched)} of {len(cases)} cases, "
            f"such as {first!r}: change it so that its group matches in each of them, or "
            "give --data.patient null to go by the names."
        )
    found = [replace(case, patient_id=_patient(matches[case.case_id])) for case in cases]
    return found, _notice(found, (), given=True)


def check_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of `data.patient`, compiled.

    Raises:
        InputError: It is no regular expression, or has not exactly one group.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"data.patient {pattern!r} is no regular expression, {error}: give one such as "
            "'(P\\d+)' with one group that holds the patient."
        ) from error
    if expression.groups != 1:
        raise InputError(
            f"data.patient {pattern!r} has {expression.groups} groups: give one, in parentheses, "
            "that holds the patient, such as '(P\\d+)'; write (?:...) for other parentheses."
        )
    return expression


def one_person(
    patients: Mapping[str, str], digests: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """Join patients that share an image, equal to the last voxel.

    Args:
        patients: Case id to patient.
        digests: Case id to the digest of each modality's voxels; cases without any are left out.

    Returns:
        Case id to patient, for all of `patients`, and a sentence for each pair that was joined.
    """
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for case_id in sorted(digests):
        for modality, digest in digests[case_id].items():
            if digest:
                holders[modality, digest].append(case_id)
    joined = dict(patients)
    notices = []
    for (modality, _), case_ids in sorted(holders.items()):
        for case_id in case_ids[1:]:
            one, other = joined[case_ids[0]], joined[case_id]
            if one == other:
                continue
            notices.append(
                f"{case_ids[0]} and {case_id} have the same {modality}, so that {one} and {other} "
                "are taken as one patient: mend the files if they are two"
            )
            joined = {case: one if name == other else name for case, name in joined.items()}
    return joined, notices


def _patient(match: re.Match[str] | None) -> str:
    return (match.group(1) or "").strip() if match else ""


def _notice(cases: Sequence[CaseFiles], doubts: Iterable[str], *, given: bool = False) -> list[str]:
    """Return how many patients the exams have, with an example; none if all are clearly single."""
    exams: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        exams[case.patient_id].append(case.case_id)
    doubtful = list(doubts)
    if len(exams) == len(cases) and not doubtful:
        return []
    count = f"{len(exams)} patient{'' if len(exams) == 1 else 's'}"
    sentence = f"{len(cases)} exams are taken as {count}"
    several = {patient: held for patient, held in exams.items() if len(held) > 1}
    if several:
        patient = min(several, key=lambda name: (-len(several[name]), name))
        held = several[patient]
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        sentence += f", such as {patient} with {', '.join(held[:3])}{more}"
    if given:
        return [f"{sentence}, by data.patient"]
    if doubtful:
        more = f" and {len(doubtful) - 1} more like it" if len(doubtful) > 1 else ""
        sentence += f"; unsure: {doubtful[0]}{more}"
    example = next((case.place or case.case_id for case in cases), "")
    return [
        f"{sentence}; if that is wrong give --data.patient REGEX with one group that finds the "
        f"patient in {example!r} and the like"
    ]
