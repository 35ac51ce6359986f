"""File name patterns with ``{case}``, or ``{patient}`` and ``{session}``, and ``*``.

In a described layout the exam's name is `{case}`, or the patient's and the session's together,
`<patient>_<session>`; then the layout itself states which exams are of one patient.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from errors import InputError

_PLACEHOLDER = re.compile(r"\\\{(case|patient|session)\\\}")


def names_a_case(pattern: str) -> bool:
    """Whether a pattern distinguishes exams: by ``{case}``, or by ``{patient}``, but not both."""
    case, patient, session = (f"{{{name}}}" in pattern for name in ("case", "patient", "session"))
    return case != patient and not (case and session)


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression; a placeholder's later places must equal its first."""
    escaped = re.escape(pattern).replace(re.escape("*"), "[^/]*")
    seen: set[str] = set()

    def place(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>[^/]+?)"

    return re.compile(_PLACEHOLDER.sub(place, escaped))


def named(match: re.Match[str]) -> tuple[str, str | None]:
    """The exam's name in a match of a compiled pattern, and its patient where that is stated."""
    found = match.groupdict()
    if "case" in found:
        return found["case"], None
    return "_".join(filter(None, (found["patient"], found.get("session")))), found["patient"]


def matching(
    patterns: Mapping[str, str], relative: Mapping[str, Path], description: Path
) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
    """The files that fit each of several patterns.

    A file that fits two belongs to the more specific pattern: `*_T1w.nii.gz` leaves
    `sub-01_ce-gd_T1w.nii.gz` to `*_ce-*_T1w.nii.gz`.

    Args:
        patterns: Name of a pattern, such as a modality, to the pattern.
        relative: Path below the root to file.
        description: The file that the patterns stand in, for messages.

    Returns:
        Name of a pattern to exam to file, and exam to patient where patterns state it.

    Raises:
        InputError: Two files fit one pattern for one exam.
    """
    expressions = {name: compiled(pattern) for name, pattern in patterns.items()}
    detail = {name: len(re.sub(r"\{\w+\}|\*", "", text)) for name, text in patterns.items()}
    found: dict[str, dict[str, Path]] = {name: {} for name in patterns}
    patients: dict[str, str] = {}
    for place, path in relative.items():
        fits = {name: m for name, e in expressions.items() if (m := e.fullmatch(place))}
        most = max((detail[name] for name in fits), default=0)
        for name, match in fits.items():
            same = patterns[name] in [patterns[other] for other in fits if other != name]
            if detail[name] < most and not same:
                continue
            case_id, patient = named(match)
            if case_id in found[name]:
                raise InputError(
                    f"{description} finds two files for {name} of {case_id}, "
                    f"{found[name][case_id]} and {path}: narrow the pattern."
                )
            found[name][case_id] = path
            if patient is not None:
                patients[case_id] = patient
    return found, patients
