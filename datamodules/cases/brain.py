"""Mask of the brain in the images of a case, or of the head where that is allowed."""

import numpy as np

from datamodules.cases.background import FULL, head_shown, look_outside, without_background
from datamodules.cases.head import head_mask
from datamodules.cases.reading import Reading
from datamodules.nifti.volume import Volume


def find_brain(reading: Reading, whole_head: bool) -> None:
    """Shift backgrounds to 0 and mark the brain; a whole head that is not wanted is a problem."""
    arrays = {name: volume.array for name, volume in reading.images.items()}
    outside = {name: look_outside(array) for name, array in arrays.items()}
    voxel_ml = float(np.prod(reading.reference.spacing)) / 1000
    head = head_shown(arrays, outside, voxel_ml)
    if head and not whole_head:
        reading.problems.append(f"{head}: a skull-stripper such as HD-BET comes first")
        return
    shifted = {name: found.value for name, found in outside.items() if found.value}
    for name, value in shifted.items():
        volume = reading.images[name]
        array = without_background(volume.array, value)
        reading.images[name] = Volume(array, volume.affine, volume.header)
    if shifted:
        values = ", ".join(f"{value:g} in {name}" for name, value in shifted.items())
        reading.notices.append(f"the background is {values}, read as outside the brain")
    brain = reading.reference.array != 0
    for volume in reading.images.values():
        brain |= volume.array != 0
    reading.brain = brain
    if head:
        reading.shows_head = True
        reading.brain = head_mask(volume.array for volume in reading.images.values())
        reading.notices.append("shows a whole head: intensities are taken inside the head")
    elif np.count_nonzero(brain) > FULL * brain.size:
        reading.notices.append(
            "fills its grid: taken as a piece cut out of the brain; of a whole head, strip the "
            "skull first"
        )
