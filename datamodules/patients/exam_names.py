"""Grouping of exams by patient, read from the names of all exams of a cohort at once.

A patient in training and in test makes every score too good, while two patients taken for one
cost nothing but a little freedom of the split. So unclear names are read as fewer patients with
more exams, and shown. These are the rules; the first that applies decides:

1. A name whose publisher states what it means is read so: BIDS `sub-03`, every BraTS year,
   `TCGA-02-0006` (three parts, the second is a hospital), `UPENN-GBM-00001_11`, CPTAC, IXI, ADNI.
2. A date or a word such as `baseline`, `ses-01`, `Timepoint_1`, `week-000-1`, `fu_12m` is a time
   point. Wherever it stands, as a folder above or below or in a name, the rest is the patient.
   `scan_001` alone names a patient, because nothing else is there that could.
3. Of folders within folders the patient is the upper one where the names below recur under
   several (`RHUH-0001/0`, `RHUH-0002/0`), or where many folders hold few each. Few folders with
   many each (`HGG`, `train`, `Leuven`) sort patients: the lower one is the patient.
4. Within one name, what ends in a number and is shared by some names, but not by all, is the
   patient (`P07_1`, `P07_2`, `P08_1`). What all share is the study's name (`phantom-0-0001`); what
   more than 20 share, or what is called a site, a hospital or a fold, is where patients come from.

The result depends on the set of names only, not on their order, and a further exam of a known
patient changes no other patient's name.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from datamodules.layouts.brats import patient_of
from datamodules.patients.patient_names import MOST_EXAMS, has_digit, within_names
from datamodules.patients.visits import ANY, PARTS, PLACES, STORAGE, STRONG

# Names of published collections, by their publishers' rules; the group is the patient.
_OFFICIAL = re.compile(
    r"(?:^|[-_. ])(?:"
    r"(?P<a>TCGA[-_][A-Z0-9]{2}[-_][A-Z0-9]{4})"
    r"|(?P<b>C3[LN]-\d{5})"
    r"|(?P<c>UPENN-GBM-\d{5})"
    r"|(?P<d>UCSF-PDGM-\d{3,4})"
    r"|(?P<e>IXI\d{3})(?=-)"
    r"|(?P<f>\d{3}_S_\d{4,5})"
    r"|(?P<g>OAS\d+_\d{4}|OAS3\d{4})"
    r"|(?P<h>BraTS-[A-Z][A-Za-z]{2,}(?:-RT)?-\d{4,5})(?=-\d)"
    r"|(?P<i>BraTSReg_\d+|BraTS2021_\d{5}|BraTS20_(?:Training|Validation)_\d{3})"
    r")(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?")


@dataclass(frozen=True)
class Grouping:
    """The patient of every exam, and the readings that are unclear.

    Args:
        patients: Place of an exam, as it was given, to the patient's name.
        doubts: One clause for each unclear reading.
    """

    patients: dict[str, str]
    doubts: tuple[str, ...]


def group(places: Iterable[str]) -> Grouping:
    """The patient of each exam of a cohort.

    Args:
        places: Folder names below the root and the exam's name, joined by ``/``; unique.
    """
    stated, others = {}, {}
    for place in sorted(set(places)):
        parts = [part for part in place.split("/") if part not in ("", ".")] or [place]
        known = next(filter(None, map(official, reversed(parts))), None)
        if known is not None:
            stated[place] = known
        else:
            others[place] = parts
    doubts: list[str] = []
    persons = _persons(others, doubts)
    names = within_names({name for _, name in persons.values()}, doubts)
    keys = {place: (scope, names[name]) for place, (scope, name) in persons.items()}
    doubts += _same_subjects(stated)
    return Grouping(_spelled_alike(stated) | _titles(keys), tuple(dict.fromkeys(doubts)))


def official(part: str) -> str | None:
    """The patient in a name whose publisher states what it means; None in any other name."""
    subject = _SUBJECT.fullmatch(part)
    if subject:
        return subject.group(1)
    found = _OFFICIAL.search(part)
    if found:
        return found.group(str(found.lastgroup))
    patient = patient_of(part)
    return patient if patient != part else None


def _persons(others: Mapping[str, Sequence[str]], doubts: list[str]) -> dict[str, tuple[str, str]]:
    """Scope and folder name of the patient of each place; the scope distinguishes namesakes."""
    cores = {place: _without_visits(parts) for place, parts in others.items()}
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    waiting: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        place: ((), core) for place, core in cores.items()
    }
    while waiting:
        uppers = _uppers(list(waiting.values()), doubts)
        deeper = {}
        for place, (above, core) in waiting.items():
            if len(core) == 1 or (above, core[0]) in uppers:
                found[place] = (above, core[0])
            else:
                deeper[place] = ((*above, core[0]), core[1:])
        waiting = deeper
    above_of: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for above, name in found.values():
        above_of[name].add(above)
    scoped = {}
    for place, (above, name) in found.items():
        apart = "/".join(part for part in above if PLACES.fullmatch(part))
        if len(above_of[name]) > 1:
            folders = " and ".join(sorted("/".join(a) or "the root" for a in above_of[name])[:2])
            same = "two patients" if apart else "one patient"
            doubts.append(f"{name} stands below {folders} and is taken as {same}")
        scoped[place] = (apart, name)
    return scoped


def _without_visits(parts: Sequence[str]) -> tuple[str, ...]:
    """The folders of a place that may name a patient, or a group of patients."""
    core: list[str] = []
    for part in parts:
        weak = bool(core) and (ANY.fullmatch(part) or STRONG.match(part))
        if STORAGE.fullmatch(part) or STRONG.fullmatch(part) or weak:
            continue
        core.append(part)
    plain = [part for part in parts if not STORAGE.fullmatch(part)]
    return tuple(core) or tuple((plain or list(parts))[:1])


def _uppers(
    waiting: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], doubts: list[str]
) -> set[tuple[tuple[str, ...], str]]:
    """Folders of one level that are patients although they hold further folders."""
    below: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
    holds_files = set()
    for above, core in waiting:
        if len(core) > 1:
            below[above, core[0]].add(core[1])
        else:
            holds_files.add((above, core[0]))
    parents: dict[str, set[tuple[tuple[str, ...], str]]] = defaultdict(set)
    for node, children in below.items():
        for child in children:
            parents[child].add(node)
    nodes = {
        node: children
        for node, children in below.items()
        if not _sorts(node[1], [child for child in children if len(parents[child]) > 1], children)
    }
    if not nodes:
        return set()
    size = median(len(children) for children in nodes.values())
    chosen = set()
    for node, children in nodes.items():
        numbered = has_digit(node[1])
        recur = any(len(parents[child]) > 1 for child in children)
        visits = all(re.fullmatch(r"\d{1,2}|[A-Za-z]", child) for child in children)
        repeats = all(child.startswith(node[1]) for child in children)
        person = (
            node in holds_files
            or (numbered and (visits or repeats) and len(children) <= MOST_EXAMS)
            or (numbered and recur and len(children) <= MOST_EXAMS)
            or (numbered and len(children) <= 3)
            or (visits and recur and len(children) <= 5)
            or len(nodes) > size
        )
        if person:
            chosen.add(node)
        sure = person and (visits or repeats)
        if len(children) > 1 and not sure:
            few = ", ".join(sorted(children)[:2])
            what = "exams of one patient" if person else "patients"
            doubts.append(f"{few} in the folder {node[1]} are taken as {what}")
    return chosen


def _sorts(folder: str, recurring: Iterable[str], children: Iterable[str]) -> bool:
    """Whether a folder sorts patients by part, place, year or time point, by its name."""
    if PARTS.fullmatch(folder) or PLACES.fullmatch(folder):
        return True
    if re.fullmatch(r"(?:19|20)\d\d", folder):
        return all(len(child) > 2 and has_digit(child) for child in children)
    return bool(ANY.fullmatch(folder)) and any(
        len(child) > 2 and has_digit(child) for child in recurring
    )


def _same_subjects(stated: Mapping[str, str]) -> list[str]:
    """BIDS subjects of one name in several data sets, which may be different people."""
    above: dict[str, set[str]] = defaultdict(set)
    for place, patient in stated.items():
        before = place.split(patient)[0].strip("/")
        parts = [part for part in before.split("/") if not STORAGE.fullmatch(part)]
        if patient.startswith("sub-") and "derivatives" not in parts:
            above[patient].add("/".join(parts))
    return [
        f"{patient} stands below {' and '.join(sorted(f or 'the root' for f in folders)[:2])} and "
        "is taken as one patient"
        for patient, folders in above.items()
        if len(folders) > 1
    ]


def _spelled_alike(stated: Mapping[str, str]) -> dict[str, str]:
    """Stated patients, spelled as in their first place: `TCGA_02_0006` is `tcga-02-0006`."""
    first: dict[str, str] = {}
    return {
        place: first.setdefault(patient.casefold().replace("_", "-"), patient)
        for place, patient in sorted(stated.items())
    }


def _titles(keys: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """One name a patient, spelled as in its first place, unique among patients."""
    spelled: dict[tuple[str, str], str] = {}
    for _, (scope, name) in sorted(keys.items()):
        spelled.setdefault((scope.casefold(), name.casefold()), name)
    scopes: dict[str, set[str]] = defaultdict(set)
    for scope, name in spelled:
        scopes[name].add(scope)
    titles = {}
    for place, (scope, name) in keys.items():
        title = spelled[scope.casefold(), name.casefold()]
        if scope and len(scopes[name.casefold()]) > 1:
            title = f"{scope}-{title}".replace("/", "-")
        titles[place] = re.sub(r"\s+", "_", title.strip())
    return titles
