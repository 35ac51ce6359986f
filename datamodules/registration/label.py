"""A label drawn on any modality of an exam, brought to T2's grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.exams.sequence_names import UNSTATED, named_modality
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.layouts.conventions import LabelConvention
from datamodules.layouts.label_values import contradicts
from datamodules.nifti.grids import aligned
from datamodules.nifti.label_map import small_labels
from datamodules.nifti.volume import Volume, read_volume
from datamodules.registration.align import REFERENCE, Alignment
from datamodules.registration.scan import same_grid, to_sitk
from errors import InputError

Array = npt.NDArray[Any]
WHOLE_ONLY = "are read as whole tumour and no more"


def label_drawn_on(exam: CaseFiles) -> str:
    """The modality whose position a drawn label shares: by its name, else by its grid.

    Four images on the label's grid are registered to each other already, so it counts as drawn on
    the reference.

    Raises:
        InputError: Neither decides it, or the named modality is missing.
    """
    assert exam.label is not None
    named = named_modality(exam.label)
    if named is not None:
        if named not in exam.images:
            raise InputError(
                f"the label {exam.label.name} was drawn on {named}, which is missing: add {named}"
            )
        return named
    fitting = [m for m, image in exam.images.items() if same_grid(exam.label, image.path)]
    if len(fitting) == len(MODALITIES):
        return REFERENCE
    if len(fitting) != 1:
        which = f"{' and '.join(fitting)} share" if fitting else "no modality shares"
        raise InputError(
            f"{which} the grid of the label {exam.label.name}: name the modality it was drawn on, "
            f"as in {exam.case_id}_seg_{fitting[0] if fitting else 't1ce'}.nii.gz"
        )
    return fitting[0]


def label_on_reference(
    exam: CaseFiles,
    path: Path,
    drawn_on: str,
    reference: Volume,
    alignments: Mapping[str, Alignment],
    notices: list[str],
) -> tuple[Array, LabelConvention]:
    """The drawn label on the reference's grid, nearest neighbour, and its convention.

    Remarks on the label are appended to `notices`.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name

    drawn = read_volume(path)
    values, convention = _label_values(drawn.array, exam.convention, notices)
    on_grid = aligned(Volume(values, drawn.affine, drawn.header), reference)
    if drawn_on == REFERENCE and on_grid is not None:
        return on_grid.array, convention
    transform = (
        alignments[drawn_on].transform
        if drawn_on != REFERENCE
        else sitk.Transform(3, sitk.sitkIdentity)
    )
    grid = to_sitk(np.zeros(reference.array.shape, np.uint8), reference.affine)
    moving = to_sitk(values, drawn.affine)
    image = sitk.Resample(moving, grid, transform, sitk.sitkNearestNeighbor, 0)
    result = sitk.GetArrayFromImage(image).T  # a copy: a view would outlive its image
    before = float(np.count_nonzero(values) * np.prod(drawn.spacing) / 1000)
    after = float(np.count_nonzero(result) * np.prod(reference.spacing) / 1000)
    if before and after < 0.8 * before:
        notices.append(
            f"{after:.1f} of {before:.1f} ml of the label drawn on {drawn_on} lie in T2's field "
            "of view"
        )
    return result, convention


def _label_values(
    array: Array, convention: LabelConvention, notices: list[str]
) -> tuple[Array, LabelConvention]:
    """Whole numbers of a label map, and its convention after a check.

    Without a stated meaning, one unknown value turns the label into a mask of the whole tumour: a
    label of 1, 2 and 4 may be one of BraTS, where 4 is enhancing tumour.
    """
    values = small_labels(array, "the label")
    present = {int(value) for value in np.unique(values)} - {0}
    unknown = sorted(present - convention.values)
    if unknown and convention.name == UNSTATED.name:
        named = ", ".join(map(str, unknown))
        notices.append(
            f"the label holds {named}, so its values {WHOLE_ONLY}: data.labels says what they mean"
        )
        first = UNSTATED.of("oedema")  # masks are written with it
        others = sorted((convention.values | present) - {0, *first})
        return values, LabelConvention.whole_tumour(UNSTATED.name, *first, *others)
    contradiction = contradicts(convention, present)
    if contradiction:
        raise InputError(contradiction)
    return values, convention
