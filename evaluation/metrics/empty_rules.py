"""Scores of empty regions: the rules of BraTS, MONAI and nnU-Net, by name.

Every tool has a rule, few state it, and it moves the mean: a patient without enhancing tumour
scores Dice 1, 0 or nothing. Lesion-wise scores define a missed lesion (0, 374 mm) and an invented
one (0, 374 mm) themselves; a rule only sets them where there is no lesion at all.

========  ====================================================================================
brats     the challenge: empty in both is perfect, empty in one is the worst (Dice, surface Dice,
          sensitivity and precision 0, HD95 373.13 mm); so every patient counts in every mean.
nan       the formula's value, 0 where it is 0, and no value (NaN) where it is 0/0 or infinite.
monai     MONAI's metric classes as they are by default: as ``nan``, and Dice has no value either
          where the reference is empty, whatever was predicted (``ignore_empty``).
nnunet    nnU-Net: Dice without a value only where both are empty (version 2), sensitivity,
          precision and HD95 without one where they are undefined (version 1); the other metrics
          are as in ``nan``, so the two agree.
========  ====================================================================================
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from errors import InputError

NAN = math.nan


class Absent(NamedTuple):
    """A metric's value where a mask is empty.

    Args:
        both: where both masks are empty.
        reference: where only the reference is empty: every predicted voxel is wrong.
        prediction: where only the prediction is empty: the whole region was missed.
    """

    both: float
    reference: float
    prediction: float

    def value(self, predicted: int, present: int) -> float:
        """Return the value for voxel counts of which one is 0."""
        if not predicted and not present:
            return self.both
        return self.prediction if present else self.reference


@dataclass(frozen=True)
class EmptyRule:
    """Scores of a region that is absent from the prediction, the reference or both.

    Args:
        name: its name in files, tables and manifests.
        dice: values of the Dice.
        hd95: values of the HD95 in mm.
        nsd: values of the surface Dice.
        sensitivity: values of the sensitivity.
        precision: values of the precision.
        lesion_dice: lesion-wise Dice where there is no lesion to be counted.
        lesion_hd95: lesion-wise HD95 in mm there.
    """

    name: str
    dice: Absent
    hd95: Absent
    nsd: Absent
    sensitivity: Absent
    precision: Absent
    lesion_dice: float
    lesion_hd95: float

    def __str__(self) -> str:
        """Return the rule as a sentence for tables."""
        return self.sentence()

    def sentence(self, largest: str = "") -> str:
        """Return the rule as a sentence, Dice and HD95 for all.

        Args:
            largest: words for the largest HD95, where it has no single number.
        """
        both, reference, prediction = (
            f"Dice {_number(dice)}, HD95 {_distance(hd95, largest if one else '')}"
            for dice, hd95, one in zip(self.dice, self.hd95, (False, True, True), strict=True)
        )
        one = f"in one: {reference}"
        if reference != prediction:
            one = f"in the reference: {reference}; in the prediction: {prediction}"
        return f"empty in both: {both}; {one} (rule {self.name})"

    def of_slices(self) -> str:
        """Return the rule as it holds for slices, whose largest distance is their own."""
        return self.sentence(largest="the slice's diagonal")


def _number(value: float, unit: str = "") -> str:
    return "none" if math.isnan(value) else f"{value:g}{unit}"


def _distance(hd95: float, largest: str) -> str:
    return largest if largest and not math.isnan(hd95) else _number(hd95, " mm")


# 373.13 mm is the diagonal of the challenge's 240 x 240 x 155 mm volumes.
BRATS = EmptyRule(
    "brats",
    dice=Absent(1.0, 0.0, 0.0),
    hd95=Absent(0.0, 373.13, 373.13),
    nsd=Absent(1.0, 0.0, 0.0),
    sensitivity=Absent(1.0, 0.0, 0.0),
    precision=Absent(1.0, 0.0, 0.0),
    lesion_dice=1.0,
    lesion_hd95=0.0,
)
UNDEFINED = EmptyRule(
    "nan",
    dice=Absent(NAN, 0.0, 0.0),
    hd95=Absent(NAN, NAN, NAN),
    nsd=Absent(NAN, 0.0, 0.0),
    sensitivity=Absent(NAN, NAN, 0.0),
    precision=Absent(NAN, 0.0, NAN),
    lesion_dice=NAN,
    lesion_hd95=NAN,
)
MONAI = replace(UNDEFINED, name="monai", dice=Absent(NAN, NAN, 0.0))
NNUNET = replace(UNDEFINED, name="nnunet")
EMPTY_RULES: Mapping[str, EmptyRule] = MappingProxyType(
    {rule.name: rule for rule in (BRATS, UNDEFINED, MONAI, NNUNET)}
)


def slice_rule(diagonal: float, rule: EmptyRule = BRATS) -> EmptyRule:
    """Return a rule for one slice, whose diagonal in mm is the largest distance in it."""
    if rule is not BRATS:
        return rule  # the others have no distance for an empty region
    return replace(BRATS, hd95=Absent(0.0, diagonal, diagonal))


def rule_named(name: str) -> EmptyRule:
    """Return a preset.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in EMPTY_RULES:
        raise InputError(
            f"--rule {name!r} is no rule for empty regions: use one of {', '.join(EMPTY_RULES)}."
        )
    return EMPTY_RULES[name]
