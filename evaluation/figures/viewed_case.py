"""A patient for viewing: images, reference and every system's prediction on one grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.figures.overlay import to_ras


@dataclass(frozen=True)
class ViewedCase:
    """One patient on its original grid.

    Args:
        case_id: name of the examination.
        place: why it is shown: worst, median or best.
        images: modality to volume (*S), 0 outside the brain.
        reference: regions WT, TC, ET, bool (R, *S).
        predictions: system to regions, bool (R, *S).
        spacing: voxel size in mm along every axis of S.
        orientation: where the axes of S point to, as nibabel's ``aff2axcodes`` returns it.
        synthetic: whether it is a phantom.
        scores: system to region to Dice, as in ``per_case.csv``.
    """

    case_id: str
    place: str
    images: Mapping[str, np.ndarray]
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    spacing: tuple[float, ...]
    orientation: str = "RAS"
    synthetic: bool = False
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def turned(self) -> "ViewedCase":
        """Return the same patient with the axes of S pointing to R, A and S."""
        order, flipped = to_ras(self.orientation)

        def turn(volume: np.ndarray) -> np.ndarray:
            return np.flip(np.transpose(volume, order), flipped)

        return ViewedCase(
            self.case_id,
            self.place,
            {name: turn(np.asarray(image)) for name, image in self.images.items()},
            np.stack([turn(mask) for mask in self.reference]),
            {
                name: np.stack([turn(mask) for mask in masks])
                for name, masks in self.predictions.items()
            },
            tuple(self.spacing[axis] for axis in order),
            "RAS",
            self.synthetic,
            self.scores,
        )
