"""The origin of a table's numbers, as sentences for its footnotes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.statistics.columns import ScoreColumn


@dataclass(frozen=True)
class Provenance:
    """The origin of a table's numbers, which its footnotes state.

    Args:
        cohort: name of the data, and its fingerprint.
        split: how patients were divided, and the protocol.
        seeds: seeds of the trainings.
        versions: package to version.
        empty_rule: scores of empty regions in volumes.
        slice_rule: scores of empty regions in slices; empty where no slice was scored.
        selected: whether the tested patients also selected the checkpoints.
        synthetic: whether the patients are phantoms.
        remarks: anything else, a sentence each.
    """

    cohort: str = ""
    split: str = ""
    seeds: Sequence[int] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    empty_rule: str = ""
    slice_rule: str = ""
    selected: bool = False
    synthetic: bool = False
    remarks: Sequence[str] = ()

    def sentences(self, patients: int, columns: Sequence[ScoreColumn] = ()) -> list[str]:
        """Return the footnotes of a table of so many patients.

        Args:
            patients: number of patients.
            columns: the scores of the table; none where it may hold slices and volumes alike.
        """
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
        notes += [f"empty regions: {rule}" for rule in self.empty_rules(columns)]
        if self.versions:
            named = (f"{package} {version}" for package, version in self.versions.items())
            notes.append(f"versions: {', '.join(named)}")
        return [*notes, *self.remarks]

    def empty_rules(self, columns: Sequence[ScoreColumn] = ()) -> list[str]:
        """Return the scores of empty regions in these columns; they differ for slices."""
        volumes = self.empty_rule or "rule not recorded"
        if not self.slice_rule:
            return [volumes]
        scopes = {column.slices for column in columns} or {True, False}
        rules = {True: f"slices {self.slice_rule}", False: f"volumes {volumes}"}
        return [rule for slices, rule in rules.items() if slices in scopes]
