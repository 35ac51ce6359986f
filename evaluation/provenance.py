"""Where the numbers of a table come from, as sentences for its footnotes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Provenance:
    """What a reader must know of where the numbers come from.

    Args:
        cohort: name of the data, and its fingerprint.
        split: how patients were divided, and the protocol.
        seeds: of the trainings.
        versions: package to version.
        empty_rule: what empty regions score.
        selected: whether the tested patients also selected the checkpoints.
        remarks: anything else, a sentence each.
    """

    cohort: str = ""
    split: str = ""
    seeds: Sequence[int] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    empty_rule: str = ""
    selected: bool = False
    remarks: Sequence[str] = ()

    def sentences(self, patients: int) -> list[str]:
        """Return the footnotes of a table of so many patients."""
        counted = f"{patients} patient{'' if patients == 1 else 's'}"
        parts = [f"data: {self.cohort or 'not recorded'}, {counted}"]
        if self.split:
            parts.append(f"split: {self.split}")
        if self.seeds:
            label = "training seed" if len(self.seeds) == 1 else "training seeds"
            parts.append(f"{label} {', '.join(map(str, self.seeds))}")
        notes = ["; ".join(parts)]
        if self.selected:
            notes.append("selected on these patients: they also chose the checkpoints")
        notes.append(f"empty regions: {self.empty_rule or 'rule not recorded'}")
        if self.versions:
            named = (f"{package} {version}" for package, version in self.versions.items())
            notes.append(f"versions: {', '.join(named)}")
        return [*notes, *self.remarks]
