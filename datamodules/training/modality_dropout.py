"""Modalities dropped at random in training, for networks that meet patients without some."""

from typing import Any

import numpy as np
import torch

from datamodules.cases.case import PreparedCase
from datamodules.cases.intensity import BACKGROUND
from datamodules.layouts.case_files import MODALITIES
from errors import InputError

STREAM = 2  # of random numbers: 0 is the patches' and slices', 1 that of their order


def check_probability(probability: float) -> None:
    """Refuse a `data.modality_dropout` that is no probability, or that drops everything.

    Raises:
        InputError: It is one of both.
    """
    if probability == 1:
        raise InputError(
            "data.modality_dropout is 1, the dropout of all modalities: expected from 0 to below "
            "1, such as 0.2."
        )
    if not 0 <= probability < 1:
        raise InputError(
            f"data.modality_dropout is {probability}: expected a probability from 0 to below 1, "
            "such as 0.2."
        )


def recorded(probability: float) -> dict[str, Any]:
    """Entry of the dropout in the identity; empty where it is unused, so that old ids stay."""
    return {"modality_dropout": probability} if probability else {}


def draw_dropped(probability: float, usable: list[int], rng: np.random.Generator) -> list[int]:
    """Return which modalities fall; where all would, one of them stays, each as probably.

    Args:
        probability: That of each modality to fall.
        usable: Numbers of the modalities that show something.
        rng: Source of the random numbers.
    """
    fallen = [modality for modality in usable if rng.random() < probability]
    if fallen and len(fallen) == len(usable):
        fallen.remove(usable[int(rng.integers(len(usable)))])
    return fallen


def blank_some(
    image: torch.Tensor, case: PreparedCase, probability: float, place: tuple[int, int, int]
) -> None:
    """Fill dropped modalities of a training image (4, *size) with the background, in place.

    Args:
        image: The image.
        case: Its case; modalities that it lacks, or that are dropped in every case, do not count as
            kept.
        probability: That of each modality to fall.
        place: Seed, epoch and number of the sample.
    """
    if probability == 0:
        return
    seed, epoch, number = place
    absent = {*case.dropped, *case.missing}
    usable = [index for index, modality in enumerate(MODALITIES) if modality not in absent]
    rng = np.random.default_rng((seed, epoch, STREAM, number))
    image[draw_dropped(probability, usable, rng)] = BACKGROUND
