"""Splits of patients into training, validation and test, and leaks between them.

Every split is by patient: the examinations of one patient stay together. The order of patients is
their digest with the seed, so it depends neither on the order of files nor on other patients.
"""

import csv
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datamodules.split_file import read_parts
from errors import InputError

Protocol = Literal["default", "paper"]
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.2


@dataclass(frozen=True)
class Split:
    """Case ids of the three parts, with ids and hashes that identify their patients later.

    Args:
        train: Cases that are trained on.
        val: Cases that select the checkpoint.
        test: Cases that are scored; under protocol `paper` the same as `val`.
        protocol: `default`, `paper` (selected on the tested patients) or `external`.
        source: How the split came about, in words.
        patients: Case id to patient id.
        hashes: Case id to content hash.
        layouts: Names of the layouts the cases were found in.
        left_out: Cases of the training part that are not used, see `keep_first`.
        phantoms: Those of `train` that were added to the cohort, see `add_phantoms`.
    """

    train: list[str]
    val: list[str]
    test: list[str]
    protocol: str = "default"
    source: str = ""
    patients: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    layouts: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    phantoms: list[str] = field(default_factory=list)

    @property
    def selected_on_test(self) -> bool:
        """Whether the tested patients also selected the checkpoint; tables must state it."""
        return self.protocol != "external" and bool(set(self.val) & set(self.test))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints and `split.json`."""
        return {
            "train": list(self.train),
            "val": list(self.val),
            "test": list(self.test),
            "protocol": self.protocol,
            "source": self.source,
            "patients": dict(self.patients),
            "hashes": dict(self.hashes),
            "layouts": list(self.layouts),
            **({"left_out": list(self.left_out)} if self.left_out else {}),
            **({"phantoms": list(self.phantoms)} if self.phantoms else {}),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Split":
        """Inverse of `to_dict`; keys of other origin are ignored."""
        return cls(**{key: plain[key] for key in cls.__dataclass_fields__ if key in plain})


def make_split(
    patients: Mapping[str, str],
    *,
    protocol: Protocol = "default",
    n_folds: int | None = None,
    fold: int = 0,
    split_file: str | Path | None = None,
    seed: int = 0,
    test_share: float = TEST_SHARE,
    noun: str = "patients",
) -> Split:
    """Split labelled cases into training, validation and test.

    Args:
        patients: Case id to patient id.
        protocol: `default` is 70/10/20; `paper` the paper's 8:2, selected and scored on the 2.
        n_folds: The fold is the test set, validation is cut from the rest.
        fold: Which fold, from 0.
        split_file: JSON with train, val and test, nnU-Net's `splits_final.json`, or a MONAI list.
        seed: Seed of the order of patients.
        test_share: Share of patients that are tested, without `n_folds`.
        noun: Plural of the units that are split, for messages.

    Raises:
        InputError: Too few patients, a fold that does not exist, or a split file that does not fit.
    """
    if split_file is not None:
        if n_folds is not None:
            raise InputError(
                f"data.n_folds is {n_folds} beside data.split_file {split_file}, which makes the "
                "split by itself: leave one of them out."
            )
        return _from_file(Path(split_file).expanduser(), patients, protocol, fold, seed)
    if n_folds is None and fold != 0:
        raise InputError(
            f"data.fold is {fold} without data.n_folds or data.split_file, which make the folds: "
            "add one of them, or leave data.fold out."
        )
    order = ordered(set(patients.values()), seed)
    if n_folds is not None:
        if not 2 <= n_folds <= len(order):
            raise InputError(
                f"data.n_folds is {n_folds} for {len(order)} {noun}: expected between 2 and the "
                f"number of {noun}."
            )
        check_fold(fold, n_folds)
        test = order[fold::n_folds]
        source = f"fold {fold} of {n_folds}, seed {seed}"
    else:
        needed = 2 if protocol == "paper" else 3
        if len(order) < needed:
            counted = noun.removesuffix("s") if len(order) == 1 else noun
            raise InputError(
                f"{len(order)} labelled {counted} cannot be split: expected at least {needed}, "
                "give a larger data.root."
            )
        test = order[: max(1, round(test_share * len(order)))]
        source = f"{'8:2' if protocol == 'paper' else '70/10/20'}, seed {seed}"
    rest = [patient for patient in order if patient not in set(test)]
    return _assemble(patients, rest, test, protocol, source)


def check_fold(fold: int, n_folds: int) -> None:
    """Refuse the number of a fold that does not exist.

    Raises:
        InputError: Naming the folds that exist.
    """
    if not 0 <= fold < n_folds:
        raise InputError(f"data.fold is {fold}: expected 0 to {n_folds - 1}.")


def _assemble(
    patients: Mapping[str, str],
    rest: Sequence[str],
    test: Sequence[str],
    protocol: Protocol,
    source: str,
) -> Split:
    """Cut validation from the patients not tested, except under the paper's protocol."""
    if protocol == "paper":
        train, val = rest, test
    else:
        if len(rest) < 2:
            raise InputError(
                f"{len(rest)} patients are left to train and validate on ({source}): expected at "
                "least 2."
            )
        share = VALIDATION_SHARE / (1 - TEST_SHARE)
        count = min(max(1, round(share * len(rest))), len(rest) - 1)
        val, train = rest[:count], rest[count:]
    return Split(
        train=_cases(patients, train),
        val=_cases(patients, val),
        test=_cases(patients, test),
        protocol=protocol,
        source=source,
    )


def _cases(patients: Mapping[str, str], chosen: Iterable[str]) -> list[str]:
    wanted = set(chosen)
    return sorted(case_id for case_id, patient in patients.items() if patient in wanted)


def ordered(patients: set[str], seed: int) -> list[str]:
    """Return patients in an order that depends on the seed and their names alone."""

    def rank(patient: str) -> bytes:
        return hashlib.sha256(f"{seed}:{patient}".encode()).digest()

    return sorted(patients, key=rank)


def _from_file(
    path: Path, patients: Mapping[str, str], protocol: Protocol, fold: int, seed: int
) -> Split:
    """The parts a file names; of nnU-Net's, `val` is tested and validation cut from `train`."""
    found = read_parts(path, patients, fold)
    named = {"train": found.train, "val": found.val, "test": found.test}
    _refuse_shared_patients(path, {k: ids for k, ids in named.items() if ids}, patients)
    if found.val is None:
        listed = {i: patients[i] for i in (*found.train, *found.test)}
        rest = ordered({patients[i] for i in found.train}, seed)
        test = sorted({patients[i] for i in found.test})
        return _assemble(listed, rest, test, protocol, f"{path.name}, fold {fold}")
    if seed != 0:
        raise InputError(
            f"data.split_seed is {seed}, but {path} says which cases train, select and test, so "
            "nothing is drawn: leave data.split_seed out."
        )
    shared = set(found.val) == set(found.test)
    if protocol == "paper" and not shared:
        raise InputError(
            f"data.protocol is paper, but {path} selects on other patients than it tests: make its "
            "val and test the same, or leave data.protocol out."
        )
    return Split(
        train=sorted(found.train),
        val=sorted(found.val),
        test=sorted(found.test),
        protocol="paper" if shared else "default",
        source=path.name,
    )


def _refuse_shared_patients(
    path: Path, parts: Mapping[str, list[str]], patients: Mapping[str, str]
) -> None:
    """Refuse a patient in two parts; validation equal to test is the paper's protocol."""
    sides = {key: {patients[i] for i in ids} for key, ids in parts.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(sides.get(one, set()) & sides.get(other, set()))
        if shared and not (one == "val" and set(parts[one]) == set(parts[other])):
            raise InputError(
                f"{path} has {', '.join(shared[:5])} both in {one} and in {other}: keep each "
                "patient on one side."
            )


def evaluation_split(
    stored: Mapping[str, Any],
    patients: Mapping[str, str],
    hashes: Mapping[str, str],
    *,
    layouts: Iterable[str] = (),
    aliases: Mapping[str, set[str]] | None = None,
    stage: Literal["validate", "test"] = "test",
    allow_seen: bool = False,
) -> tuple[Split, list[str]]:
    """Return the labelled cases at hand that a checkpoint may be scored on.

    The checkpoint's own cohort gives its stored test set; patients it never saw are an external
    test set, all of them; a mixture is refused.

    Args:
        stored: The checkpoint's `Split.to_dict()`.
        patients: Case id to patient id of the cases at hand.
        hashes: Case id to content hash of the cases at hand.
        layouts: Layout names of the cases at hand.
        aliases: Case id to the names the case had in other years.
        stage: `validate` scores the stored validation set, `test` the test set.
        allow_seen: Score seen patients too; the notice names them.

    Returns:
        The split, whose `test` (or `val`) is to be scored, and notices.

    Raises:
        InputError: Every case was trained or selected on, or seen and unseen ones are mixed.
    """
    own = Split.from_dict(stored)

    def here(part: Iterable[str]) -> set[str]:
        return _recognise(own, set(part), patients, hashes, aliases or {})

    trained, selected, tested = here(own.train), here(own.val), here(own.test)
    seen = trained | selected
    new = sorted(set(patients) - seen - tested - here(own.left_out))
    described: dict[str, Any] = {
        "patients": {**own.patients, **patients},
        "hashes": {**own.hashes, **hashes},
        "layouts": sorted(layouts),
    }
    if seen and not new and not allow_seen:
        leaked = tested & (trained if own.selected_on_test else seen)
        if leaked:
            what = "trained" if own.selected_on_test else "trained or selected"
            raise InputError(
                f"the checkpoint, or a stage it was built from, was {what} on patients of its test "
                f"set ({_few(leaked)}): train it on this split, or give data.allow_seen_patients."
            )
        if not (tested if stage == "test" else selected):
            raise InputError(
                f"every case here was used to train or select the checkpoint ({_few(seen)}): give "
                "patients it has not seen, or data.allow_seen_patients."
            )
        notices = []
        if stage == "test" and len(tested) < len(own.test):
            notices.append(f"{len(tested)} of the {len(own.test)} stored test cases are here")
        if own.selected_on_test:
            notices.append("the checkpoint was selected on these patients")
        elif stage == "validate" and (known := trained & selected):
            notices.append(f"validated although a stage was trained on them: {_few(known)}")
        split = Split(
            sorted(trained), sorted(selected), sorted(tested), own.protocol, own.source, **described
        )
        return split, notices
    if seen and not allow_seen:
        raise InputError(
            f"data.root mixes patients that the checkpoint was trained or selected on "
            f"({_few(seen)}) with unseen ones ({_few(new)}): separate them, or give "
            "data.allow_seen_patients."
        )
    notices = []
    if seen:
        notices.append(f"scored although trained or selected on: {', '.join(sorted(seen))}")
    notices += overlap_notes(own.layouts, layouts, aliases)
    every = sorted(patients)
    split = Split([], every, every, "external", "external test set", **described)
    return split, notices


def overlap_notes(
    trained: Iterable[str], here: Iterable[str], aliases: Mapping[str, Collection[str]] | None
) -> list[str]:
    """Return the notice that one patient may have two names; none where that can be excluded.

    Args:
        trained: Layout names of the patients that were trained on; empty: phantoms alone.
        here: Layout names of the cases at hand.
        aliases: Names of a case in other years; empty: unknown.
    """
    before, now = sorted(trained), sorted(here)
    if aliases or not before or before == now:
        return []
    return [
        f"overlap unknown: trained on {', '.join(before)}, tested on {', '.join(now)}, whose years "
        "rename the same patients, and no name_mapping*.csv was found"
    ]


def _recognise(
    own: Split,
    part: set[str],
    patients: Mapping[str, str],
    hashes: Mapping[str, str],
    aliases: Mapping[str, set[str]],
) -> set[str]:
    """Cases at hand that belong to `part` of the checkpoint's cohort, by name or by content."""
    contents = {own.hashes[i] for i in part if i in own.hashes}
    names = part | {own.patients[i] for i in part if i in own.patients}
    return {
        case_id
        for case_id, patient in patients.items()
        if hashes.get(case_id) in contents
        or not names.isdisjoint({case_id, patient, *aliases.get(case_id, ())})
    }


def read_aliases(root: Path) -> dict[str, set[str]]:
    """Names of one patient in different years, from `name_mapping*.csv` near `root`."""
    aliases: dict[str, set[str]] = {}
    places = [*root.glob("name_mapping*.csv"), *root.glob("*/name_mapping*.csv")]
    for path in sorted({*places, *root.resolve().parent.glob("name_mapping*.csv")}):
        try:
            rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(True)))
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(
                f"{path} cannot be read as a table of names ({error}): mend it, or move it away."
            ) from error
        for row in rows:
            names = {
                value.strip()
                for column, value in row.items()
                if value and column and "id" in column.lower() and value.strip() != "NA"
            }
            for name in names:
                aliases.setdefault(name, set()).update(names - {name})
    return aliases


def _few(ids: Iterable[str]) -> str:
    listed = sorted(ids)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
