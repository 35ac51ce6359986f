"""Settings of a cohort's preparation: its grid, its voxel order, and what is accepted."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datamodules.cases.intensity import Normalisation
from errors import InputError

Missing = Literal["error", "zero"]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Preparation:
    """Settings that shape a prepared case, besides its files.

    Args:
        spacing: mm of the prepared grid; by slice, within the slices only.
        by_slice: Keep the file's slice distance, and store slice after slice as they are shown, so
            that reading one touches one piece of the file.
        missing: `zero` fills a missing modality with the background instead of refusing the case.
        whole_head: Accept heads with skull; intensities are then taken inside the head.
        normalisation: How intensities become z-scores.
    """

    spacing: float
    by_slice: bool = False
    missing: Missing = "error"
    whole_head: bool = False
    normalisation: Normalisation = "clipped"

    def check(self) -> None:
        """Refuse an implausible spacing.

        Raises:
            InputError: It is below 0.1 or above 20 mm.
        """
        if not 0.1 <= self.spacing <= 20:
            raise InputError(
                f"data.spacing is {self.spacing} mm: expected between 0.1 and 20, such as 1.0."
            )

    def grid(self, native_spacing: tuple[float, ...]) -> tuple[float, ...]:
        """Spacing of the prepared grid of a file, both in canonical order (R, A, S)."""
        across = native_spacing[2] if self.by_slice else self.spacing
        return (self.spacing, self.spacing, across)

    def extra(self) -> tuple[str, ...]:
        """Return the settings that differ from a plain, skull-stripped volume's."""
        return tuple(
            name
            for name, given in (
                ("by slice", self.by_slice),
                ("missing is zero", self.missing == "zero"),
                ("whole head", self.whole_head),
                (self.normalisation, self.normalisation != "clipped"),
            )
            if given
        )


def to_slices(volume: Array) -> Array:
    """Volume (..., R, A, S) as slices (S, ..., rows, columns), a view.

    As radiology shows them: rows run from anterior to posterior, columns from the patient's right
    to its left.
    """
    shown = volume[..., ::-1, ::-1, :]
    return np.moveaxis(np.swapaxes(shown, -3, -2), -1, 0)


def from_slices(slices: Array) -> Array:
    """Inverse of `to_slices`: (S, ..., rows, columns) to (..., R, A, S), a view."""
    return np.swapaxes(np.moveaxis(slices, 0, -1), -3, -2)[..., ::-1, ::-1, :]
