"""The patients that a checkpoint, or anything it was built from, was trained on or selected on."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datamodules.base import CohortData
from datamodules.slices.random_split import case_of, is_by_slice
from datamodules.splits import Split, overlap_notes, read_aliases
from errors import InputError
from lightning_modules.weights.checkpoints import read_card
from studies.runs.checkpoint_settings import PREPARATION, stated
from studies.runs.planning import Plan

CARD_SCHEMA = 2  # of a checkpoint's card; 1 had one list `seen` of trained and selected patients

Patient = dict[str, str]  # case_id, content_hash, patient_id


@dataclass
class Exposure:
    """The patients that a checkpoint was trained on and selected on, by case id.

    Args:
        trained: patients whose images and labels changed weights.
        selected: patients whose scores chose a checkpoint.
        unknown: names of networks of which it is not known what they were trained on.
    """

    trained: dict[str, Patient] = field(default_factory=dict)
    selected: dict[str, Patient] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    @classmethod
    def of_split(
        cls, split: Split | Mapping[str, Any], hashes: Mapping[str, str] | None = None
    ) -> "Exposure":
        """Return the exposure of a training to its own split.

        Args:
            split: the split, or its plain form.
            hashes: content hashes by case id; None: those of the split.
        """
        plain = split.to_dict() if isinstance(split, Split) else split
        known = plain.get("hashes", {}) if hashes is None else hashes
        people = plain.get("patients", {})

        def described(part: Iterable[str]) -> dict[str, Patient]:
            return {
                name: _patient(name, known.get(name, ""), people.get(name, name))
                for name in sorted(part)
            }

        return cls(described(plain.get("train", [])), described(plain.get("val", [])))

    @classmethod
    def of_card(cls, card: Mapping[str, Any], *, paper: bool = False) -> "Exposure":
        """Return the exposure that a card records.

        A card of schema 1 does not record which of the patients seen upstream were trained on: all
        but the training's own validation patients are assumed to be. If the training began from a
        checkpoint file, that may have been trained on these too.

        Args:
            card: the card of a checkpoint.
            paper: whether training and selection must be kept apart, as under the paper's protocol;
                unknown patients then count as trained on.
        """
        if "trained_on" in card:
            trained, selected = (
                {one["case_id"]: dict(one) for one in card[name]}
                for name in ("trained_on", "selected_on")
            )
            return cls(trained, selected, list(card.get("unknown", [])))
        found = cls.of_split(card.get("split", {}))
        for one in card.get("seen", []):
            if one["case_id"] not in found.selected:
                known = _patient(one["case_id"], one["content_hash"], one["case_id"])
                found.trained.setdefault(one["case_id"], known)
        if paper and built_upon_files(card):
            found.trained = {**found.selected, **found.trained}
        return found

    def add(self, other: "Exposure") -> None:
        """Add the exposure of a stage."""
        self.trained = {**other.trained, **self.trained}
        self.selected = {**other.selected, **self.selected}
        self.unknown = list(dict.fromkeys([*self.unknown, *other.unknown]))

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of a card; ``seen`` contains both."""
        return {
            "schema": CARD_SCHEMA,
            "trained_on": list(self.trained.values()),
            "selected_on": list(self.selected.values()),
            "seen": list({**self.selected, **self.trained}.values()),
            **({"unknown": self.unknown} if self.unknown else {}),
        }


def only_synthetic(card: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, and all that it was built from, saw no patients but phantoms.

    A card of an earlier version does not say it: then the training had no folder of patients, and
    was not built upon checkpoint files, which may have another origin.
    """
    if "synthetic" in card:
        return bool(card["synthetic"])
    config = card.get("config") or {}
    data = (config.get("data") or {}).get("init_args") or {"root": "unknown"}
    return data.get("root") is None and ".ckpt" not in repr(config.get("model"))


def stored_split(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the split of the first card, with all patients that any member saw as training.

    An ensemble, or a fusion over backbones that were trained elsewhere, has seen more patients
    than its own split contains. Patients that another member selected on are not added if the first
    one selects on them too, as selection is kept apart from training. Phantoms have no layouts:
    they come back in no year of a challenge under another name.
    """
    stored = dict(cards[0]["split"])
    real = [card for card in cards if not only_synthetic(card)]
    stored["layouts"] = sorted({one for card in real for one in card["split"].get("layouts", [])})
    hashes, patients = dict(stored["hashes"]), dict(stored.get("patients", {}))
    train, paper = set(stored["train"]), Split.from_dict(stored).selected_on_test
    for card in cards:
        exposure = Exposure.of_card(card, paper=paper)
        chosen = {name: one for name, one in exposure.selected.items() if name not in stored["val"]}
        for name, one in {**chosen, **exposure.trained}.items():
            train.add(name)
            hashes.setdefault(name, one["content_hash"])
            patients.setdefault(name, one.get("patient_id", name))
    return {**stored, "train": sorted(train), "hashes": hashes, "patients": patients}


def built_upon_files(card: Mapping[str, Any]) -> bool:
    """Whether a training began from checkpoint files, which may have another split."""
    return ".ckpt" in repr(card.get("model"))


def _patient(name: str, content: str, patient: str) -> Patient:
    return {"case_id": name, "content_hash": content, "patient_id": patient}


def among(
    exposed: Collection[Patient],
    cases: Iterable[str],
    *,
    split: Split,
    hashes: Mapping[str, str],
    by_slice: bool,
    aliases: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> list[str]:
    """Return the cases that are among exposed patients, by case id, patient, content or alias.

    Between a split by slice and one by patient, a slice counts as its patient.

    Args:
        exposed: patients of a checkpoint.
        cases: cases of one part of the split.
        split: the split.
        hashes: content hash of every case at hand.
        by_slice: whether the checkpoint's own split is by slice.
        aliases: names of a case in other years.
    """
    names = {one["case_id"] for one in exposed}
    contents = {one["content_hash"] for one in exposed} - {""}
    slices_here = is_by_slice(split.test, hashes)
    whole = {case_of(name) for name in names} if by_slice else names
    whole = whole | {one.get("patient_id", one["case_id"]) for one in exposed}

    def met(name: str) -> bool:
        if name in names or hashes.get(name) in contents:
            return True
        if by_slice and slices_here:
            return False  # that protocol allows a patient on both sides
        case = case_of(name) if slices_here else name
        return not whole.isdisjoint({case, split.patients.get(name, case), *aliases.get(case, ())})

    return [name for name in cases if met(name)]


def check_checkpoint(path: Path, plan: Plan, name: str = "") -> None:
    """Check an upstream checkpoint against the data it will be used with.

    Args:
        path: the file.
        plan: the training that is built upon it.
        name: its name in messages; empty: the path.

    Raises:
        InputError: when it, or a stage it was built from, was trained on a test patient, or
            selected on one where selection and test are kept apart; or when its data was prepared
            differently (spacing, normalisation).
    """
    card, name = read_card(path), name or str(path)
    made, here = card.get("data", {}), plan.data.identity()
    for setting in PREPARATION:
        if made.get(setting) is not None and made[setting] != here.get(setting):
            raise InputError(
                f"{name} was trained on data with {setting} {stated(made, setting)}, this "
                f"experiment prepares {setting} {stated(here, setting)}: use one setting for both."
            )
    data, split = plan.data, plan.data.split
    exposure = Exposure.of_card(card, paper=split.selected_on_test)
    stored = card.get("split", {})
    aliases = read_aliases(Path(data.root)) if data.root else {}
    if not only_synthetic(card):
        for notice in overlap_notes(stored.get("layouts", []), split.layouts, aliases):
            note(data, f"{name}: {notice}")
    met_by = partial(
        among,
        split=split,
        hashes=data.case_hashes(),
        by_slice=is_by_slice(stored.get("test", []), stored.get("hashes", {})),
        aliases=aliases,
    )
    trained = met_by(exposure.trained.values(), split.test)
    # under the paper's protocol selection is on the tested patients, as the tables say
    chosen = [] if split.selected_on_test else exposure.selected.values()
    met = [*trained, *(name for name in met_by(chosen, split.test) if name not in trained)]
    what = (
        "trained" if len(met) == len(trained) and split.selected_on_test else "trained or selected"
    )
    if met and not data.allow_seen_patients:
        unsure = ""
        if "trained_on" not in card and split.selected_on_test and built_upon_files(card):
            unsure = "; or train it again, as its older card does not record which of the two"
        raise InputError(
            f"{name} was {what} on {len(met)} of the test patients of this experiment "
            f"({_list(met)}): use the split it was trained with (--data.split_file), or add "
            f"--data.allow_seen_patients true and say so beside the scores{unsure}."
        )
    if met:
        note(data, f"{name} was {what} on {len(met)} test patients, as is allowed: {_list(met)}")
    validated = set() if split.selected_on_test else set(split.val)
    if known := met_by(exposure.trained.values(), sorted(validated)):
        note(
            data,
            f"{name} was trained on {len(known)} of the {len(split.val)} validation patients "
            f"({_list(known)}), so validation scores are too good and select a worse checkpoint",
        )
    if "foreign" in card and exposure.trained:
        _note_strangers(name, exposure, data, met_by)


def _note_strangers(
    name: str, exposure: Exposure, data: CohortData, met_by: Callable[..., list[str]]
) -> None:
    """Note where no id of a list that a user wrote is a patient here: it may be misspelt."""
    here = sorted(data.cases)
    if not met_by(exposure.trained.values(), here):
        note(
            data,
            f"none of the {len(exposure.trained)} ids that {name} was trained on, such as "
            f"{min(exposure.trained)}, is a case or patient here, such as {here[0]}: so none of "
            "these patients counts as seen by it",
        )


def note(data: CohortData, notice: str) -> None:
    """Add a notice to a data module, once."""
    if notice not in data.notices:
        data.notices.append(notice)


def _list(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
