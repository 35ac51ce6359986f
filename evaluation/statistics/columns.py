"""Score columns: their measure, unit and direction, region, and slices or volumes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datamodules.layouts.conventions import REGIONS
from errors import InputError

SLICES = "slices/"


@dataclass(frozen=True)
class Measure:
    """One measure of agreement between a prediction and its reference.

    Args:
        name: as in the columns of ``per_case.csv``.
        label: as in tables and pictures.
        higher: whether a higher value is better.
        decimals: number of decimals in tables.
        unit: unit of the value; empty for a share.
        magnitude: whether its absolute value is scored.
    """

    name: str
    label: str
    higher: bool
    decimals: int
    unit: str = ""
    magnitude: bool = False

    @property
    def heading(self) -> str:
        """Label, unit and direction, as above a column."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.label}{unit} {'↑' if self.higher else '↓'}"


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("dice", "Dice", True, 3),
        Measure("hd95", "HD95", False, 2, "mm"),
        Measure("nsd", "NSD", True, 3),
        Measure("sensitivity", "Sensitivity", True, 3),
        Measure("precision", "Precision", True, 3),
        Measure("volume_error_ml", "|Volume error|", False, 2, "ml", magnitude=True),
        Measure("lesion_dice", "Lesion Dice", True, 3),
        Measure("lesion_hd95", "Lesion HD95", False, 2, "mm"),
    )
}


@dataclass(frozen=True)
class ScoreColumn:
    """A column of ``per_case.csv`` that holds scores.

    Args:
        key: its name there, ``dice/WT`` or ``slices/dice/WT``.
        measure: what was measured.
        region: where.
        slices: whether it is the mean over a patient's selected slices.
    """

    key: str
    measure: Measure
    region: str
    slices: bool

    @classmethod
    def parse(cls, key: str) -> "ScoreColumn | None":
        """Return the column of that name, None when it holds no score known here."""
        measure, _, region = key.removeprefix(SLICES).partition("/")
        if measure not in MEASURES or region not in REGIONS:
            return None
        return cls(key, MEASURES[measure], region, key.startswith(SLICES))

    @property
    def scope(self) -> str:
        """Whether slices or whole volumes were scored."""
        return "selected slices" if self.slices else "whole volumes"

    @property
    def family(self) -> str:
        """Name of the family whose comparisons are corrected together: one measure, all regions."""
        return self.key.rpartition("/")[0]


def score_columns(names: Iterable[str], metrics: Sequence[str] | None = None) -> list[ScoreColumn]:
    """Return the score columns among names, slices first, then by metric and region.

    Args:
        names: names of columns.
        metrics: those wanted in their order: ``dice`` (slices and volumes), ``slices/dice`` or
            one region, ``dice/WT``; None takes Dice and HD95.

    Raises:
        InputError: when a wanted metric is unknown or has no column.
    """
    present = [column for name in dict.fromkeys(names) if (column := ScoreColumn.parse(name))]
    wanted = ["dice", "hd95"] if metrics is None else list(dict.fromkeys(metrics))
    available = list(dict.fromkeys(column.family for column in present))
    chosen: list[ScoreColumn] = []
    for metric in wanted:
        found = [c for c in present if metric in (c.key, c.family, c.measure.name)]
        if not found and metrics is not None:
            raise InputError(
                f"--metrics names {metric!r}, which no compared table holds for all systems: use "
                f"some of {', '.join(available) or 'those that `lightning test` writes'}."
            )
        chosen += [column for column in found if column not in chosen]

    def place(column: ScoreColumn) -> tuple[bool, int, int]:
        names = (column.measure.name, column.family, column.key)
        order = min(wanted.index(name) for name in names if name in wanted)
        return not column.slices, order, REGIONS.index(column.region)

    return sorted(chosen, key=place)
