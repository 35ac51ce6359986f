"""Comparison of patients with those that checkpoints were trained on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import instantiate_class

from datamodules.appearance import Statistics, cohort_statistics, is_complete, look_of, unlike
from datamodules.base import CohortData
from datamodules.cases.case import PreparedCase
from datamodules.slices.random_split import cases_of
from errors import InputError
from lightning_modules.weights.checkpoints import read_card
from outputs import some
from studies.runs.exposure import only_synthetic

CARD_KEY = "appearance"  # entry of a card with the statistics of the training patients' images
# Data settings of a training with which other patients are prepared alike.
PREPARED_WITH = (
    *("spacing", "normalisation", "slice_size", "missing", "whole_head", "accept_flagged", "drop"),
)


def described_training(data: CohortData, built_upon: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a card says about the look and the origin of its training patients.

    Args:
        data: the data of the training.
        built_upon: cards of the checkpoints that the training starts from.
    """
    cases = data.split_cases()
    trained = [cases[name] for name in cases_of(data.split.train, data.case_hashes())]
    synthetic = all(case.synthetic for case in cases.values())
    return {
        "synthetic": synthetic and all(map(only_synthetic, built_upon)),
        CARD_KEY: cohort_statistics(trained),
    }


class Likeness:
    """The statistics of one or several checkpoints' training patients.

    Args:
        name: name of the checkpoints, for messages.
        cohorts: statistics of each.
        data: data settings of the first one's training: ``class_path`` and ``init_args``.
    """

    def __init__(self, name: str, cohorts: Sequence[Statistics], data: Mapping[str, Any]) -> None:
        self.name = name
        self.cohorts = list(cohorts)
        self.data = data

    @classmethod
    def of_checkpoint(cls, path: Path) -> "Likeness":
        """Return the statistics in a checkpoint.

        Raises:
            InputError: when it is no checkpoint, or has no complete statistics.
        """
        card = read_card(path)
        if not is_complete(card.get(CARD_KEY)):
            raise InputError(
                f"--ckpt_path {path} holds no complete statistics of the images it was trained on, "
                "so an earlier version or other software wrote it: train it again with "
                "`lightning fit`, or leave the option out."
            )
        return cls.of_cards(str(path), [card])

    @classmethod
    def of_cards(cls, name: str, cards: Sequence[Mapping[str, Any]]) -> "Likeness":
        """Return the statistics in those cards of checkpoints that have complete ones."""
        cohorts = [card[CARD_KEY] for card in cards if is_complete(card.get(CARD_KEY))]
        return cls(name, cohorts, (cards[0].get("config") or {}).get("data") or {})

    @property
    def notice(self) -> str:
        """A sentence where no patient can be compared; empty where all can."""
        if self.cohorts:
            return ""
        return (
            f"{self.name} holds no complete statistics of the images it was trained on, so an "
            "earlier version or other software wrote it: whether the patients look like them is "
            "not known."
        )

    def findings(self, case: PreparedCase) -> list[str]:
        """Return in what a patient looks unlike the training patients; empty if in nothing."""
        found = look_of(case)
        return list(dict.fromkeys(one for cohort in self.cohorts for one in unlike(found, cohort)))

    def compare(self, root: Path, layout: str | None, labels: str | None) -> Iterator[str]:
        """Yield a sentence on every patient who looks unlike the training patients, and a summary.

        Args:
            root: folder of the patients.
            layout: name of a layout or a YAML file; None: by the names.
            labels: meaning of label values, a name or a YAML file; None: as the layout says.

        Raises:
            InputError: when no patient can be prepared as the training patients were.
        """
        given = self.data["init_args"]
        kept = {name: given[name] for name in PREPARED_WITH if given.get(name) is not None}
        arguments = {**kept, "root": str(root), "layout": layout, "labels": labels}
        made = {"class_path": self.data["class_path"], "init_args": arguments}
        data: CohortData = instantiate_class((), made)
        with suppress(InputError):  # bad cases are named below
            data.prepare_data()
        cases, strange = data.cases, 0
        for case_id, what in sorted(data.failures.items()):
            yield f"{case_id}: not compared with the training patients ({what})"
        for case_id, case in sorted(cases.items()):
            findings = self.findings(case)
            strange += bool(findings)
            if findings:
                yield f"{case_id}: {some(findings)}"
        count = self.cohorts[0]["patients"]
        look = "looks" if strange == 1 else "look"
        yield (
            f"{strange} of {len(cases)} {look} unlike the {count} patients that {self.name} was "
            "trained on"
        )
