"""The paper's random draw of single slices, which puts one patient into training and test.

Shi et al. draw 729 slices to train and 245 to test. A unit of such a split is one slice, named
``<case id>#<slice>``; validation is an eighth of the slices that are not tested.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datamodules.slices.slice_case import SliceCase
from datamodules.splits import Protocol, Split, make_split
from errors import InputError

PAPER_TEST_SHARE = 245 / (729 + 245)
_UNIT = re.compile(r"(.+)#(\d+)")


def unit(case_id: str, index: int) -> str:
    """Name of one slice in a split."""
    return f"{case_id}#{index}"


def case_of(name: str) -> str:
    """The case of a unit; a case id itself otherwise."""
    found = _UNIT.fullmatch(name)
    return found[1] if found else name


def by_case(units: Iterable[str]) -> dict[str, list[int]]:
    """Slices of every case among units, cases and slices in order."""
    places: dict[str, list[int]] = {}
    for name in units:
        found = _UNIT.fullmatch(name)
        if found:
            places.setdefault(found[1], []).append(int(found[2]))
    return {case_id: sorted(places[case_id]) for case_id in sorted(places)}


def is_by_slice(test: Iterable[str], hashes: Mapping[str, str]) -> bool:
    """Whether the tested units of a split are slices.

    Args:
        test: Its tested units.
        hashes: Its content hashes, which hold the case of every slice too; a case may be called
            ``patient#3``, but then there is none called ``patient``.
    """
    found = (_UNIT.fullmatch(name) for name in test)
    return any(match is not None and match[1] in hashes for match in found)


def cases_of(test: Sequence[str], hashes: Mapping[str, str]) -> set[str]:
    """The cases that the tested units of a split belong to, whether they are slices or cases.

    Args:
        test: Its tested units.
        hashes: Its content hashes.
    """
    return set(by_case(test) if is_by_slice(test, hashes) else test)


def draw_slices(
    cases: Sequence[SliceCase],
    selected: Mapping[str, Sequence[int]],
    *,
    protocol: Protocol,
    n_folds: int | None,
    fold: int,
    split_file: str | None,
    seed: int,
) -> Split:
    """Split the selected slices without regard to their patients.

    Args:
        cases: Labelled cases.
        selected: Slices of each by case id.
        protocol: `paper` selects the checkpoint on the tested slices.
        n_folds: The fold is the test set, validation is cut from the rest.
        fold: Which fold, from 0.
        split_file: JSON with units under train, val and test.
        seed: Seed of the draw.
    """
    names = {unit(case.case_id, index): case for case in cases for index in selected[case.case_id]}
    made = make_split(
        {name: name for name in names},  # each slice counts as a patient, which is the leak
        protocol=protocol,
        n_folds=n_folds,
        fold=fold,
        split_file=split_file,
        seed=seed,
        test_share=PAPER_TEST_SHARE,
        noun="slices",
    )
    if split_file is None and n_folds is None:
        made = replace(made, source=f"single slices drawn 729:245 to train and test, seed {seed}")
    return replace(made, **_identities(cases, selected))


def _identities(
    cases: Sequence[SliceCase], selected: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Patients and hashes of the units, and of the cases, so that seen patients are known later."""
    patients = {case.case_id: case.patient_id for case in cases}
    hashes = {case.case_id: case.content_hash for case in cases}
    for case in cases:
        for index in selected[case.case_id]:
            patients[unit(case.case_id, index)] = case.patient_id
            hashes[unit(case.case_id, index)] = case.slice_hash(index)
    return {"patients": patients, "hashes": hashes, "layouts": sorted({c.layout for c in cases})}


def stored_slices(
    stored: Mapping[str, Any], hashes: Mapping[str, str], *, allow_seen: bool
) -> Split | None:
    """The slices that a checkpoint stored, where the cases at hand are exactly its own.

    Args:
        stored: `Split.to_dict()` of a split by slice; its training part may be widened by what
            upstream checkpoints saw, slices or whole cases.
        hashes: Case id to content hash of the cases at hand.
        allow_seen: Test slices that were trained on.

    Returns:
        The stored split under the names the cases have here, or None for another cohort.

    Raises:
        InputError: Tested slices were trained on.
    """
    own = Split.from_dict(stored)
    names = {content: case_id for case_id, content in hashes.items()}
    known = {
        case_of(name): names[own.hashes[case_of(name)]]
        for name in (*own.train, *own.val, *own.test)
        if own.hashes.get(case_of(name)) in names
    }
    if set(known.values()) != set(hashes):
        return None

    trained = set(own.train)
    leaked = [name for name in own.test if name in trained or case_of(name) in trained]
    if leaked and not allow_seen:
        raise InputError(
            f"the checkpoint was trained on {len(leaked)} slices of its test set ({leaked[0]}): "
            "train it on this split, or give data.allow_seen_patients."
        )

    def here(part: Iterable[str]) -> list[str]:
        places = by_case(part)
        return sorted(unit(known[c], i) for c, every in places.items() if c in known for i in every)

    return Split(
        here(own.train),
        here(own.val),
        here(own.test),
        own.protocol,
        own.source,
        own.patients,
        {**own.hashes, **hashes},
        own.layouts,
    )


def as_cases(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a split by slice into one of whole cases: each counts as seen if a slice of it was."""
    parts = {key: {case_of(name) for name in stored[key]} for key in ("train", "val", "test")}
    return {
        **stored,
        "train": sorted(parts["train"]),
        "val": sorted(parts["val"]),
        "test": sorted(parts["test"]),
    }
