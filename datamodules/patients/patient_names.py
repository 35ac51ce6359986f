"""The patient within single names of exams, such as `P07` in `P07_1` and `P07_baseline`.

Rules 2 and 4 of `datamodules.patients.exam_names`, which says why they are as they are.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from datamodules.patients.visits import ANY, DATE, GLUED, LETTERED, PARTS, PLACES, STRONG

MOST_EXAMS = 20  # of one patient, where only numbers tell exams from patients
_SEPARATORS = "-_. "


def within_names(names: set[str], doubts: list[str]) -> dict[str, str]:
    """The patient within each name.

    Args:
        names: Names of exams, or of folders that hold the exams of one patient.
        doubts: A clause is added for each unclear reading.
    """
    shared = _shared_beginning(names)
    rests = {name: name[len(shared) :] for name in names}
    found: dict[str, str] = {}
    leading: dict[str, set[str]] = defaultdict(set)
    for rest in rests.values():
        first = ANY.match(rest)
        if first:
            leading[rest[first.end() :].lstrip(_SEPARATORS)].add(first.group())
    for name, rest in rests.items():
        head = _by_words(rest, leading)
        if head:
            found[name] = shared + head
    _drop_crowds(found, shared, names, doubts)
    heads = set(found.values()) | {n for n in names if n not in found and has_digit(n)}
    for name in sorted(names - set(found)):
        ends = [name[:end] for end in _ends(name)]
        ends += [name[:end] for end in _glued(name)]
        known = [end for end in ends if end in heads and _is_id(end[len(shared) :])]
        if known:
            found[name] = known[0]
    rest_names = {rests[name]: name for name in names - set(found)}
    for rest, head in _by_numbers(set(rest_names), doubts).items():
        found[rest_names[rest]] = shared + head
    return {name: found.get(name, name) for name in names}


def _by_words(name: str, leading: Mapping[str, set[str]]) -> str | None:
    """The patient in a name with a visit: the part before the visit, or else around it."""
    for visit in ANY.finditer(name):
        head = name[: visit.start()].rstrip(_SEPARATORS)
        if has_digit(head) and not PLACES.fullmatch(head) and not PARTS.fullmatch(head):
            return head
    found = STRONG.search(name) or ANY.match(name)
    if found is None:
        return None
    head = name[: found.start()].rstrip(_SEPARATORS)
    tail = name[found.end() :].lstrip(_SEPARATORS)
    sure = STRONG.match(name, found.start()) or len(leading.get(tail, ())) > 1
    if has_digit(tail) and sure and not ANY.fullmatch(tail):
        return "_".join(filter(None, (head, tail)))
    return head or None if STRONG.search(name) else None


def _drop_crowds(found: dict[str, str], shared: str, names: set[str], doubts: list[str]) -> None:
    """Remove beginnings that name no patient: too many exams share them, or they name a kind."""
    members: dict[str, list[str]] = defaultdict(list)
    for name, head in found.items():
        members[head].append(name)
    size = median(map(len, members.values())) if members else 0
    for head, group_of in members.items():
        own = head[len(shared) :]
        whole = len(group_of) == len(names) and len(names) > 1
        crowd = whole and len(names) > MOST_EXAMS
        kind = not has_digit(own) and (
            len(own) < 2 or len(members) < size or whole or len(group_of) > MOST_EXAMS
        )
        if crowd or kind:
            if kind and not whole and 1 < len(group_of) <= MOST_EXAMS:
                doubts.append(f"{' and '.join(sorted(group_of)[:2])} are taken as two patients")
            for name in group_of:
                del found[name]


def _by_numbers(names: set[str], doubts: list[str]) -> dict[str, str]:
    """The patient in names without a visit, by the beginnings that some of them share."""
    found: dict[str, str] = {}
    shapes: dict[str, list[str]] = defaultdict(list)
    for name in names:
        shapes[_shape(name)].append(name)
    for _, alike in sorted(shapes.items()):
        for place in range(len(_ends(alike[0]))):
            heads: dict[str, list[str]] = defaultdict(list)
            for name in sorted(alike):
                heads[name[: _ends(name)[place]]].append(name)
            verdict = _verdict(heads, names)
            shown = max(heads.values(), key=lambda group_of: (len(group_of), group_of))[:2]
            if verdict == "patients":
                # After an id, one or two digits count exams, even where a patient has one only.
                # A longer ending is cut off only where several exams share the beginning.
                found |= {
                    name: head
                    for head, same in heads.items()
                    for name in same
                    if len(same) > 1 or re.fullmatch(r"\d{1,2}", name[len(head) + 1 :])
                }
                if len(shown) > 1:
                    doubts.append(f"{' and '.join(shown)} are taken as one patient")
                break
            if verdict == "places":
                doubts.append(f"{' and '.join(shown)} are taken as two patients")
    glued: dict[str, list[str]] = defaultdict(list)
    for name in names - set(found):
        for end in _glued(name):
            if _is_id(name[:end]):
                glued[name[:end]].append(name)
    for head, same in glued.items():
        if len(same) > 1:
            found |= dict.fromkeys(same, head)
            doubts.append(f"{' and '.join(sorted(same)[:2])} are taken as one patient")
    return found


def _verdict(heads: Mapping[str, Sequence[str]], names: set[str]) -> str:
    """Whether the beginnings of names are patients, places that patients come from, or neither."""
    largest = max(map(len, heads.values()))
    rests = [name[len(head) + 1 :] for head, same in heads.items() for name in same]
    if not any(map(has_digit, heads)):
        return _of_words(heads, rests)
    if not all(map(_is_id, heads)):
        return ""
    if largest < 2:
        return "patients" if all(re.fullmatch(r"\d{1,2}", rest) for rest in rests) else ""
    if len(heads) == 1 and largest == len(names):
        return ""  # the study's name
    if any(PLACES.fullmatch(head) or PARTS.fullmatch(head) for head in heads):
        return "places"
    if any(re.match(r"\d{3,}[-_. ].", rest) for rest in rests):
        return ""  # the patient's own number follows
    size = median(map(len, heads.values()))
    long = any(re.fullmatch(r"\d{3,}", rest) for rest in rests)
    many = long and len(set(rests)) > len(heads) / 2 and size > 2
    few = size <= 5 and all(re.fullmatch(r"\d{1,2}|[A-Za-z]", rest) for rest in rests)
    if largest > MOST_EXAMS or (len(heads) < size and not few) or many:
        return "places" if largest <= MOST_EXAMS else ""
    return "patients"


def _of_words(heads: Mapping[str, Sequence[str]], rests: Sequence[str]) -> str:
    """Do as `_verdict` for beginnings without a number: initials, family names, or kinds.

    Many with few exams each are people, few with many each are kinds, and in a small cohort
    neither is sure.
    """
    size = median(map(len, heads.values()))
    counted = all(re.fullmatch(r"\d{1,2}|[A-Za-z]", rest) for rest in rests)
    kinds = any(PLACES.fullmatch(head) or PARTS.fullmatch(head) for head in heads)
    most = max(map(len, heads.values()))
    if not counted or kinds or len(heads) < 2 or most < 2 or size > 5 or most > MOST_EXAMS:
        return ""
    return "patients" if len(heads) > size else "places"


def _ends(name: str) -> list[int]:
    """Positions at which a name may be cut: before separators, but not within a date."""
    dates = [match.span() for match in DATE.finditer(name)]
    return [
        place
        for place, letter in enumerate(name)
        if letter in _SEPARATORS and place and not any(a < place < b for a, b in dates)
    ]


def _glued(name: str) -> list[int]:
    """Position of a visit that no separator parts from the patient: at most one."""
    visit = GLUED.search(name)
    if visit:
        return [visit.start()]
    return [len(name) - 1] if LETTERED.fullmatch(name) else []


def _shape(name: str) -> str:
    """The form of a name as letters, digits and separators; equal forms are cut at one place."""
    plain = DATE.sub("D", name)
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", "0", plain))


def _shared_beginning(names: set[str]) -> str:
    """The beginning, up to a separator, that all names share, which so names no patient."""
    if len(names) < 2:
        return ""
    first = min(names)
    for end in reversed(_ends(first)):
        beginning = first[: end + 1]
        rests = [name[end + 1 :] for name in names]
        if all(name.startswith(beginning) for name in names) and all(
            has_digit(rest) and not ANY.fullmatch(rest) for rest in rests
        ):
            return beginning if len(names) > MOST_EXAMS or not has_digit(beginning) else ""
    return ""


def has_digit(text: str) -> bool:
    """Whether a name holds a number, as ids of patients do and names of kinds do not."""
    return any(letter.isdigit() for letter in text)


def _is_id(text: str) -> bool:
    """Whether text ends in a part with a number that is no year or date."""
    last = re.split(r"[-_. ]", text)[-1]
    return has_digit(last) and not re.fullmatch(r"(?:19|20)\d\d", last) and not ANY.fullmatch(text)
