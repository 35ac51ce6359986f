"""Selection of a patient's slices by the reference label, and of tumour-free ones beside them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from errors import InputError

Rule = Literal["largest", "n_per_patient", "all_tumour"]
Areas = Sequence[int]  # pixels a slice


def check_selection(
    slices_per_patient: int, empty_fraction: float, slices_per_epoch: int | None = None
) -> None:
    """Refuse numbers out of range.

    Raises:
        InputError: No slice a patient or an epoch, or a fraction outside 0 to 0.9.
    """
    if slices_per_epoch is not None and slices_per_epoch < 1:
        raise InputError(f"data.slices_per_epoch is {slices_per_epoch}: expected 1 or more.")
    if slices_per_patient < 1:
        raise InputError(f"data.slices_per_patient is {slices_per_patient}: expected 1 or more.")
    if not 0 <= empty_fraction <= 0.9:
        raise InputError(
            f"data.empty_fraction is {empty_fraction}: expected the share of tumour-free slices "
            "in training, from 0 (the paper's) to 0.9."
        )


def select(tumour: Areas, rule: Rule, slices_per_patient: int) -> list[int]:
    """Indices of the slices that the rule chooses, rising; none where there is no tumour.

    Args:
        tumour: Area of the tumour in every slice.
        rule: `largest` takes the slice with the most tumour (of equals the lowest),
            `n_per_patient` the middles of equal parts of the tumour's extent, `all_tumour` all.
        slices_per_patient: For `n_per_patient`.
    """
    shown = [index for index, area in enumerate(tumour) if area]
    if not shown or rule == "all_tumour":
        return shown
    if rule == "largest":
        return [max(shown, key=lambda index: (tumour[index], -index))]
    parts = min(slices_per_patient, len(shown))
    return [shown[(2 * part + 1) * len(shown) // (2 * parts)] for part in range(parts)]


def draw_empty(
    tumour: Mapping[str, Areas], brain: Mapping[str, Areas], beside: int, fraction: float, seed: int
) -> list[tuple[str, int]]:
    """Tumour-free slices that make up `fraction` of a training set together with `beside` others.

    Drawn from all tumour-free slices that show brain, by digest, so that the draw depends neither
    on the order of patients nor on the other patients.

    Args:
        tumour: Area of the tumour in every slice, by case id.
        brain: Area of the brain in every slice, by case id.
        beside: Number of slices with tumour.
        fraction: Below 1.
        seed: Seed of the draw.

    Returns:
        (case id, slice) in order; fewer than asked where there are not enough.
    """
    wanted = round(beside * fraction / (1 - fraction))
    empty = [
        (case_id, index)
        for case_id, areas in tumour.items()
        for index, (lesion, inside) in enumerate(zip(areas, brain[case_id], strict=True))
        if inside and not lesion
    ]

    def rank(place: tuple[str, int]) -> bytes:
        return hashlib.sha256(f"{seed}:{place[0]}#{place[1]}".encode()).digest()

    return sorted(sorted(empty, key=rank)[:wanted])
