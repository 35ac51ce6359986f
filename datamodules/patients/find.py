"""Examinations below a folder, in any layout, with the patient of each."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from datamodules.layouts.bids import find_bids, is_bids
from datamodules.layouts.brats import (
    LAYOUTS,
    find_brats,
    layouts_of,
    patient_of,
    refuse_other_layout,
)
from datamodules.layouts.case_files import MODALITIES, NIFTI, CaseFiles, ImageFile, nifti_files
from datamodules.layouts.conventions import LabelConvention
from datamodules.layouts.decathlon import find_collection
from datamodules.layouts.described import find_described
from datamodules.layouts.label_files import named_convention
from datamodules.patients.grouping import grouped
from errors import InputError

OTHER_LAYOUTS = ("msd", "nnunet", "bids")


def find_cases(
    root: str | Path, layout: str | Path | None = None, labels: str | None = None
) -> list[CaseFiles]:
    """Every examination below `root`, sorted by case id.

    Args:
        root: A folder; HGG/LGG or any other folders in between do not matter.
        layout: A name of `LAYOUTS` or `OTHER_LAYOUTS`, a YAML file, or None to go by the names.
        labels: What label values mean, a name of `CONVENTIONS` or a YAML file; None: as the layout.

    Raises:
        InputError: Nothing found, several layouts mixed, or one file found twice.
    """
    stated = named_convention(labels, "data.labels") if labels is not None else None
    cases = grouped(_find_named(Path(root).expanduser(), layout, stated))
    return cases if stated is None else [replace(case, convention=stated) for case in cases]


def _find_named(
    root: Path, layout: str | Path | None, stated: LabelConvention | None
) -> list[CaseFiles]:
    """Every examination below `root` in a layout, with the layout's meaning of labels.

    BIDS says nothing of them: its labels mean what is `stated`.
    """
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder: give the folder that holds patients.")
    if layout is not None and str(layout).endswith((".yaml", ".yml")):
        return find_described(root, Path(layout))
    if layout is not None and layout not in (*LAYOUTS, *OTHER_LAYOUTS):
        known = ", ".join((*LAYOUTS, *OTHER_LAYOUTS))
        raise InputError(
            f"data.layout {layout!r} is unknown: expected one of {known}, or a YAML file."
        )
    files = list(nifti_files(root))
    if layout == "bids" or (layout is None and is_bids(files)):
        return find_bids(root, files, stated)
    collection = root.parent if root.name in ("imagesTr", "imagesTs") else root
    is_collection = (collection / "imagesTr").is_dir() or (collection / "imagesTs").is_dir()
    if layout in ("msd", "nnunet") or (layout is None and is_collection):
        folder = root if root.name in ("imagesTr", "imagesTs") else None
        return find_collection(collection, folder, None if layout is None else str(layout))
    return find_brats(root, files, None if layout is None else str(layout))


def single_case(
    images: Mapping[str, str | Path], layout: str | None = None, labels: str | None = None
) -> CaseFiles:
    """One unlabelled patient given as four files, for `predict`.

    Args:
        images: Modality to file.
        layout: A name of `LAYOUTS`; None: by the names, else brats2021.
        labels: The label values to write, as in `find_cases`; None: those of the layout.

    Raises:
        InputError: A modality is missing or unknown, or its file does not exist.
    """
    if set(images) != set(MODALITIES):
        raise InputError(
            f"one patient needs the four files {', '.join(MODALITIES)}: got "
            f"{', '.join(sorted(images)) or 'none'}; give all of --t1 --t1ce --t2 --flair."
        )
    paths = {modality: Path(images[modality]).expanduser() for modality in MODALITIES}
    for modality, path in paths.items():
        if not path.is_file():
            raise InputError(f"--{modality} {path} is not a file: give a NIfTI image.")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(
            f"data.layout {layout!r} cannot name one patient's prediction: expected one of "
            f"{', '.join(LAYOUTS)}; data.labels says which label values to write."
        )
    stated = named_convention(labels, "data.labels") if labels is not None else None
    stems = {modality: NIFTI.sub("", path.name) for modality, path in paths.items()}
    case_id = os.path.commonprefix(list(stems.values()))  # noqa: RUF071 - of names, not paths
    case_id = re.sub(r"[-_.]+(t|T)?$", "", case_id) or paths["t1"].parent.name or "patient"
    recognised = layouts_of(case_id)
    refuse_other_layout(case_id, layout, recognised)
    name = layout or next(iter(recognised), "brats2021")
    return CaseFiles(
        case_id=case_id,
        patient_id=patient_of(case_id),
        images={modality: ImageFile(path) for modality, path in paths.items()},
        label=None,
        convention=stated or LAYOUTS[name].convention,
        layout=name,
        prediction_name=f"{case_id}{LAYOUTS[name].separator}seg.nii.gz",
    )
