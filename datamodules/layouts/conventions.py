"""Meanings of label values: the conventions of the challenges, and a user's own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from errors import InputError

REGIONS = ("WT", "TC", "ET")
CHOICES = (REGIONS[:1], REGIONS)  # of regions in the 2D study
CLASSES = ("necrosis", "oedema", "enhancing")
Values = int | tuple[int, ...]


@dataclass(frozen=True)
class LabelConvention:
    """The meaning of a label map's values.

    A class may be the union of several values; label maps are written with the first of them.
    A convention without necrosis and enhancing tumour describes masks of the whole tumour alone,
    whose values stand under `oedema`.

    Args:
        name: The convention's name, e.g. ``brats2021``.
        necrosis: Value of the necrotic, cystic and non-enhancing core.
        oedema: Value of the oedema, or of the whole tumour where no other class is given.
        enhancing: Value of the enhancing tumour.
        background: Values besides 0 that belong to no region (a resection cavity).
    """

    name: str
    necrosis: Values
    oedema: Values
    enhancing: Values
    background: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind in CLASSES:  # a union of one is the plain number, so that old identities stay
            values = getattr(self, kind)
            if not isinstance(values, int):
                single = len(values) == 1
                object.__setattr__(self, kind, values[0] if single else tuple(values))

    @classmethod
    def whole_tumour(cls, name: str, *values: int, background: Iterable[int] = ()) -> Any:
        """The convention of masks that hold the whole tumour and nothing else."""
        return cls(name, (), values, (), tuple(background))

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that a label map of this convention distinguishes."""
        return REGIONS if self.of("necrosis") or self.of("enhancing") else REGIONS[:1]

    @property
    def values(self) -> frozenset[int]:
        """Every value a label map of this convention may hold."""
        return frozenset({0, *self.background}.union(*map(self.of, CLASSES)))

    def of(self, kind: str) -> tuple[int, ...]:
        """The values of a class, ``necrosis``, ``oedema`` or ``enhancing``."""
        values: Values = getattr(self, kind)
        return (values,) if isinstance(values, int) else values

    def same_meaning(self, other: "LabelConvention") -> bool:
        """Whether both give every region the same values."""
        return all(set(self.of(kind)) == set(other.of(kind)) for kind in CLASSES)

    def to_regions(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Overlapping regions WT, TC, ET of a label map: (*S) to bool (3, *S).

        TC and ET are empty where the convention does not distinguish them: see `regions`.
        """
        enhancing = _holds(labels, self.of("enhancing"))
        core = enhancing | _holds(labels, self.of("necrosis"))
        return np.stack([core | _holds(labels, self.of("oedema")), core, enhancing])

    def from_regions(self, regions: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Label map of overlapping regions: bool (R, *S), the first R of WT, TC, ET, to uint8 (*S).

        Sigmoid regions are not nested by themselves: WT becomes oedema, TC core, ET enhancing,
        the later overwriting the earlier, so core outside the whole tumour stays core.
        """
        labels = np.zeros(regions.shape[1:], np.uint8)
        whole = self.of("oedema")
        kinds = ("oedema", "necrosis", "enhancing")[: len(regions)]
        for region, kind in zip(regions, kinds, strict=True):
            labels[np.asarray(region, bool)] = (self.of(kind) or whole)[0]
        return labels

    def describe(self) -> str:
        """Name and meaning, ``brats2021 (necrosis 1, oedema 2, enhancing 4)``."""
        return f"{self.name} ({self.meaning})"

    @property
    def meaning(self) -> str:
        """The values in words, ``necrosis 1, oedema 2, enhancing 4``."""
        classes = {kind: self.of(kind) for kind in CLASSES if self.of(kind)}
        if len(self.regions) == 1:
            classes = {"whole tumour": self.of("oedema")}
        if self.background:
            classes["background"] = self.background
        return ", ".join(f"{kind} {' '.join(map(str, v))}" for kind, v in classes.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for checkpoints and manifests."""
        classes = {kind: self.of(kind) for kind in CLASSES}
        plain = {kind: v[0] if len(v) == 1 else list(v) for kind, v in classes.items()}
        return {"name": self.name, **plain, "background": list(self.background)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LabelConvention":
        """Inverse of `to_dict`."""
        return cls(**{**plain, "background": tuple(plain["background"])})


def read_regions(given: str | Sequence[str], option: str) -> tuple[str, ...]:
    """Return the regions of the 2D study by their names: WT alone, or WT, TC and ET.

    Args:
        given: names in a list, or separated by commas.
        option: as it was given, ``data.regions``, for messages.

    Raises:
        InputError: no name, an unknown one, one twice, or another selection or order.
    """
    names = given.split(",") if isinstance(given, str) else given
    regions = tuple(name.strip() for name in names if name.strip())
    expected = " or ".join(",".join(choice) for choice in CHOICES)
    if not regions:
        raise InputError(f"{option} names no region: expected {expected}.")
    for name in regions:
        if name not in REGIONS:
            raise InputError(f"{option} has the unknown region {name}: expected {expected}.")
        if regions.count(name) > 1:
            raise InputError(f"{option} has {name} twice: expected {expected}.")
    if regions in CHOICES:
        return regions
    if sorted(regions) == sorted(REGIONS):
        raise InputError(
            f"{option} is {','.join(regions)}, in another order than that of every table and "
            f"checkpoint: expected {','.join(REGIONS)}."
        )
    raise InputError(
        f"{option} is {','.join(regions)}, a selection that label maps cannot hold: expected "
        f"{expected}."
    )


def _holds(labels: npt.NDArray[Any], values: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    found = np.zeros(labels.shape, bool) if not values else labels == values[0]
    for value in values[1:]:
        found |= labels == value
    return found


BRATS_4 = LabelConvention("brats2021", necrosis=1, oedema=2, enhancing=4)
# Since 2023 every challenge numbers 1, 2, 3; 4 is the resection cavity after treatment.
BRATS_3 = LabelConvention("brats2023", necrosis=1, oedema=2, enhancing=3, background=(4,))
# Pediatrics since 2024: 1 enhancing, 2 non-enhancing, 3 cystic, 4 oedema; core is 1, 2 and 3.
PEDIATRIC = LabelConvention("brats2024-ped", necrosis=(2, 3), oedema=4, enhancing=1)
MSD = LabelConvention("msd", necrosis=2, oedema=1, enhancing=3)
CANONICAL = LabelConvention("canonical", necrosis=1, oedema=2, enhancing=3)
WHOLE_TUMOUR: LabelConvention = LabelConvention.whole_tumour("whole tumour", 1)
BY_NAME_PEDIATRIC = "brats-ped"  # its names do not state which of the two meanings holds

CONVENTIONS: Mapping[str, LabelConvention] = {
    **{f"brats{year}": BRATS_4 for year in range(2017, 2022)},
    "brats2023": BRATS_3,
    "brats2024": replace(BRATS_3, name="brats2024"),
    "brats-men": replace(CANONICAL, name="brats-men"),
    "brats-met": replace(BRATS_3, name="brats-met"),
    "brats-goat": replace(CANONICAL, name="brats-goat"),
    "brats2023-ped": replace(CANONICAL, name="brats2023-ped"),
    "brats2024-ped": PEDIATRIC,
    "msd": MSD,
    "canonical": CANONICAL,
}
