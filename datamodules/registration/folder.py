"""Finding and reading the folders that `lightning prepare` wrote, one a patient."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from datamodules.layouts.case_files import MODALITIES, CaseFiles, ImageFile
from datamodules.layouts.conventions import LabelConvention
from datamodules.nifti.headers import SYNTHETIC, blank
from datamodules.nifti.volume import read_volume
from datamodules.patients.grouping import grouped
from datamodules.registration.label import WHOLE_ONLY
from datamodules.registration.scan import to_sitk
from errors import InputError
from files import read_json, write_atomically
from outputs import Outputs

REGISTERED = "registered"
REPORT = "registration.json"
SHEET = "sheet.png"


def is_registered(root: str | Path) -> bool:
    """Whether `root` is a folder that `lightning prepare` wrote, or one patient's out of it."""
    root = Path(root).expanduser()
    return (root / REPORT).is_file() or any(root.glob(f"*/{REPORT}"))


def find_registered(root: str | Path) -> list[CaseFiles]:
    """Every registered patient below `root`, sorted by case id.

    Raises:
        InputError: None found, a file of one is missing, or one is flagged and not accepted.
    """
    cases, problems = sort_registered(root)
    if problems:
        raise InputError("\n".join(f"{name}: {what}" for name, what in sorted(problems.items())))
    return cases


def sort_registered(root: str | Path) -> tuple[list[CaseFiles], dict[str, str]]:
    """Return registered patients below `root`, sorted by case id, and the others' problems.

    Raises:
        InputError: None found.
    """
    root = Path(root).expanduser()
    reports = [root / REPORT] if (root / REPORT).is_file() else sorted(root.glob(f"*/{REPORT}"))
    if not reports:
        raise InputError(
            f"no registered patient found below data.root {root}: write them with lightning "
            "prepare --data.root EXAMS --out DIR."
        )
    cases, problems = [], {}
    for path in reports:
        report, folder = read_json(path), path.parent
        if report["flags"] and not report["accepted"]:
            problems[str(report["case_id"])] = (
                f"registration flagged, {'; '.join(report['flags'])}: look at {folder / SHEET}, "
                "then run lightning prepare again with --data.accept_flagged true, or remove "
                "the folder"
            )
            continue
        try:
            cases.append(registered_case(folder, report))
        except InputError as error:
            problems[str(report["case_id"])] = str(error)
    return grouped(cases), problems


def registered_case(folder: Path, report: Mapping[str, Any]) -> CaseFiles:
    """The files of one registered patient.

    Raises:
        InputError: One of them is missing, or an earlier version changed values of the label.
    """
    case_id, convention = str(report["case_id"]), LabelConvention.from_dict(report["convention"])
    if len(convention.regions) > 1 and any(WHOLE_ONLY in notice for notice in report["notices"]):
        raise InputError(
            f"{folder} is of an earlier version, which wrote unknown label values as oedema: "
            "remove it and run lightning prepare again."
        )
    paths = {m: folder / f"{case_id}_{m}.nii.gz" for m in MODALITIES if m in report["files"]}
    label = folder / f"{case_id}_seg.nii.gz" if report["label_drawn_on"] else None
    for path in [*paths.values(), *([label] if label else [])]:
        if not path.is_file():
            raise InputError(f"{path} is missing: remove {folder} and run lightning prepare again.")
    return CaseFiles(
        case_id=case_id,
        patient_id=str(report["patient_id"]),
        images={modality: ImageFile(path) for modality, path in paths.items()},
        label=label,
        convention=convention,
        layout=REGISTERED,
        prediction_name=f"{case_id}_seg.nii.gz",
        notices=(*report["notices"], *report["flags"]),
        # Older reports took every session for a patient; the case's name is more reliable.
        place=str(report.get("place", case_id)),
    )


def finished(folder: Path, sources: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a patient whose work is done for exactly these `sources`, else None."""
    try:
        report = json.loads((folder / REPORT).read_text())
        # The patient's id changes no image; `rename` updates it.
        done = {**report["sources"], "patient_id": ""} == {**sources, "patient_id": ""}
        registered_case(folder, report)
    except (OSError, ValueError, KeyError):  # absent, or of an older version; InputError too
        return None
    return dict(report) if done else None


def labels_on_modality(
    label_file: Path, registered_folder: Path, modality: str, out: Path, remark: str = ""
) -> None:
    """Write a label map given on T2's grid on the original grid of a modality, nearest neighbour.

    Args:
        label_file: A label map on T2's grid.
        registered_folder: The patient's folder with `registration.json` and the transforms.
        modality: Whose grid; the original file need not exist any more.
        out: The NIfTI file to write.
        remark: Fixed words for the header, about the origin of the label.

    Raises:
        InputError: The modality was not registered, or the label is not on T2's grid.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name

    report = read_json(registered_folder / REPORT)
    grids = report["grids"]
    if modality not in grids:
        raise InputError(
            f"{registered_folder} holds no {modality}: expected one of {', '.join(grids)}."
        )
    label = read_volume(label_file)
    if list(label.array.shape) != grids["t2"]["shape"]:
        raise InputError(
            f"{label_file} has the shape {label.array.shape}, T2 {tuple(grids['t2']['shape'])}: "
            "give a label map on T2's grid."
        )
    grid = grids[modality]
    affine = np.asarray(grid["affine"])
    empty = to_sitk(np.zeros(grid["shape"], np.uint8), affine)
    values = to_sitk(label.array.astype(np.uint8), np.asarray(grids["t2"]["affine"]))
    back = sitk.Transform(3, sitk.sitkIdentity)
    if modality != "t2":
        # From the modality's point to T2's: the inverse of the registration.
        found = registered_folder / f"{modality}_to_t2.tfm"
        back = sitk.ReadTransform(str(found)).GetInverse()
    on_grid = sitk.Resample(values, empty, back, sitk.sitkNearestNeighbor, 0)
    array = np.ascontiguousarray(sitk.GetArrayFromImage(on_grid).T)
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    # an earlier version kept the text of the source instead
    synthetic = grid.get("synthetic", SYNTHETIC in grid.get("description", "").encode())
    blank(image.header, synthetic=synthetic, remark=remark)
    write_nifti(image, out)


def write_nifti(image: Any, path: Path) -> None:
    """Write a NIfTI file whose bytes depend on its content only (no time, no file name)."""
    raw = image.to_bytes()
    whole = gzip.compress(raw, compresslevel=4, mtime=0) if path.suffix == ".gz" else raw
    write_atomically(path, whole)


def accept(folder: Path, report: dict[str, Any]) -> None:
    """Record that a person has accepted a flagged registration."""
    _rewrite(folder, {**report, "accepted": True})


def rename(folder: Path, report: dict[str, Any], exam: CaseFiles) -> dict[str, Any]:
    """Record the exam's patient as its names are read now; return the updated report.

    For an exam without a label, record also the convention that its masks are written in.
    """
    stated: dict[str, Any] = {"patient_id": exam.patient_id, "place": exam.place}
    if exam.label is None:
        stated["convention"] = exam.convention.to_dict()
    if any(report.get(key) != value for key, value in stated.items()):
        report = {**report, **stated}
        _rewrite(folder, report)
    return report


def _rewrite(folder: Path, report: dict[str, Any]) -> None:
    Outputs(folder, "--out").write(REPORT, json.dumps(report, indent=1) + "\n")
