"""One patient's exam registered to T2; its folder appears complete or not at all."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.cases.reading import digest
from datamodules.cases.sameness import same_images
from datamodules.layouts.case_files import MODALITIES, CaseFiles
from datamodules.nifti.geometry import canonical_view, orientation_of
from datamodules.nifti.headers import MARK, image_like, is_synthetic, without_text
from datamodules.nifti.volume import Volume, read_volume
from datamodules.registration.align import REFERENCE, REGISTRATION_VERSION, Alignment, align
from datamodules.registration.folder import REPORT, SHEET, finished, write_nifti
from datamodules.registration.label import label_drawn_on, label_on_reference
from datamodules.registration.scan import Scan, header_problem, read_scan, to_sitk
from datamodules.registration.sheet import draw_sheet
from errors import InputError
from files import whole_folder
from outputs import LEDGER, Outputs, unused

Array = npt.NDArray[Any]
REPLACED = ".replaced"  # folder of earlier results that the user had changed


def exam_problems(exam: CaseFiles, missing: str) -> list[str]:
    """Return the problems of an exam that show in names and headers, without reading voxels."""
    absent = [m for m in MODALITIES if m not in exam.images]
    if not exam.images:
        return [f"no modality recognised: {'; '.join(exam.notices) or 'no NIfTI file'}"]
    problems = []
    if REFERENCE in absent:
        problems.append("T2 is missing, to which the others are registered: add its file")
        absent.remove(REFERENCE)
    if len(exam.images) < 2 and not problems:
        problems.append("T2 is alone: add at least one other modality")
    elif absent and missing == "error":
        names, verb = " and ".join(absent), "is" if len(absent) == 1 else "are"
        problems.append(
            f"{names} {verb} missing: add the file, or go on without (--data.missing zero)"
        )
    unread = [header_problem(m, image.path) for m, image in exam.images.items()]
    if exam.label is not None:
        unread.append(header_problem("the label", exam.label))
    problems += [problem for problem in unread if problem]
    if exam.label is not None and not problems:
        try:
            label_drawn_on(exam)
        except InputError as error:
            problems.append(str(error))
    return problems


def sources_of(exam: CaseFiles, missing: str) -> dict[str, Any]:
    """Return the inputs of a result: files by place, size and time, settings, version.

    Raises:
        InputError: A file vanished.
    """
    files = {modality: image.path for modality, image in exam.images.items()}
    if exam.label is not None:
        files["label"] = exam.label
    stated = {}
    for kind, path in files.items():
        try:
            stat = path.stat()
        except OSError as error:  # removed since it was found
            raise InputError(
                f"{kind} {path} cannot be read ({error.strerror}): restore it and run again"
            ) from error
        stated[kind] = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    return {
        "version": REGISTRATION_VERSION,
        "files": stated,
        "patient_id": exam.patient_id,
        "convention": exam.convention.to_dict() if exam.label is not None else None,
        "missing": missing if len(exam.images) < len(MODALITIES) else None,
    }


def register_patient(exam: CaseFiles, out: Path, missing: str, threads: int) -> None:
    """Register one exam into the folder `out`, which appears in one step; not twice at once.

    Args:
        exam: Images, and perhaps a label, of one patient.
        out: The patient's folder; one that an earlier run wrote is replaced, and kept in
            `REPLACED` beside it where a file in it was changed by hand since.
        missing: "error" or "zero", recorded.
        threads: Modalities registered side by side.

    Raises:
        InputError: A file is unreadable, or no position makes two sequences overlap.
    """
    sources = sources_of(exam, missing)
    if out.exists() and not (out / REPORT).is_file():
        raise InputError(
            f"{out} exists and was not written by lightning prepare: give another folder as --out"
        )
    with whole_folder(out, locked=True) as temporary:  # by the caller
        _write(exam, temporary, sources, threads)
        Outputs(temporary, "--out").adopt(sorted(path.name for path in temporary.iterdir()))
        if out.exists():
            _clear(out)


def _clear(out: Path) -> None:
    """Remove a patient's earlier results; set them aside where any file was changed since."""
    outputs = Outputs(out, "--out")
    names = [str(file.relative_to(out)) for file in out.rglob("*") if not file.is_dir()]
    if all(outputs.is_own(name) for name in names if name != LEDGER):
        shutil.rmtree(out)
        return
    kept = unused(str(out.parent / REPLACED / out.name))
    kept.parent.mkdir(exist_ok=True)
    out.rename(kept)


def _write(exam: CaseFiles, folder: Path, sources: Mapping[str, Any], threads: int) -> None:
    """Write every file of a patient's folder."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    present = [m for m in MODALITIES if m in exam.images]
    with ThreadPoolExecutor(max(1, min(threads, len(present)))) as pool:

        def read(modality: str) -> Scan:
            return read_scan(modality, exam.images[modality].path)

        # All are read before one is registered, so that a bad file is found first.
        scans = dict(zip(present, pool.map(read, present), strict=True))
        _refuse_repeated({m: scan.volume for m, scan in scans.items()})
        fixed = scans[REFERENCE]
        moved = [m for m in present if m != REFERENCE]

        def register(modality: str) -> tuple[Alignment, Array]:
            alignment = align(fixed, scans[modality])
            return alignment, on_reference(scans[modality], fixed.volume, alignment.transform)

        results = dict(zip(moved, pool.map(register, moved), strict=True))
    alignments = {m: alignment for m, (alignment, _) in results.items()}
    _copy(exam.images[REFERENCE].path, folder / f"{exam.case_id}_{REFERENCE}.nii.gz")
    for modality, (alignment, array) in results.items():
        scan = scans[modality]
        write_nifti(
            _like(fixed.volume, array, scan.volume), folder / f"{exam.case_id}_{modality}.nii.gz"
        )
        transform = folder / f"{modality}_to_{REFERENCE}.tfm"
        sitk.WriteTransform(alignment.transform, str(transform))
        if is_synthetic(scan.volume.header):  # the format allows comment lines
            head, rest = transform.read_text().split("\n", 1)
            transform.write_text(f"{head}\n# {MARK.decode()}\n{rest}")
    label, drawn_on, notices = None, None, list(exam.notices)
    convention = exam.convention
    if exam.label is not None:
        drawn_on = label_drawn_on(exam)
        label, convention = label_on_reference(
            exam, exam.label, drawn_on, fixed.volume, alignments, notices
        )
        write_nifti(
            _like(fixed.volume, label, read_volume(exam.label)),
            folder / f"{exam.case_id}_seg.nii.gz",
        )
    absent = [m for m in MODALITIES if m not in exam.images]
    if absent:
        notices.append(f"{' and '.join(absent)} missing, filled with zero")
    flags = [flag for alignment in alignments.values() for flag in alignment.flags]
    report = {
        "SYNTHETIC": any(is_synthetic(scan.volume.header) for scan in scans.values()),
        "case_id": exam.case_id,
        "patient_id": exam.patient_id,
        "place": exam.place,
        "reference": REFERENCE,
        "verdict": "flagged" if flags else "good",
        "flags": flags,
        "accepted": False,
        "notices": notices,
        "files": present,
        "missing": absent,
        "registration": {m: _figures(alignment) for m, alignment in alignments.items()},
        "label_drawn_on": drawn_on,
        "convention": convention.to_dict(),
        "grids": {m: _grid(scan.volume) for m, scan in scans.items()},
        "sources": sources,
    }
    draw_sheet(exam.case_id, scans, alignments, label, folder / SHEET)
    # Written last: a folder without its report is not finished.
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    assert finished(folder, sources) is not None


def _refuse_repeated(volumes: Mapping[str, Volume]) -> None:
    """Refuse one image given as two sequences, which registration would fit perfectly.

    Raises:
        InputError: Two hold the same image.
    """
    arrays = {m: canonical_view(v.array, orientation_of(v.affine)) for m, v in volumes.items()}
    problems = same_images(arrays, {m: digest(array) for m, array in arrays.items()})
    if problems:
        raise InputError("; ".join(problems))


def on_reference(scan: Scan, reference: Volume, transform: Any) -> Array:
    """A sequence on the reference's grid, resampled once, in its own type and units."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    volume = scan.volume
    moving = to_sitk(volume.array.astype(np.float32), volume.affine)
    grid = to_sitk(np.zeros(reference.array.shape, np.uint8), reference.affine)
    image = sitk.Resample(
        moving, grid, transform, sitk.sitkLinear, scan.background, sitk.sitkFloat32
    )
    array = sitk.GetArrayFromImage(image).T  # a copy: a view would outlive its image
    dtype = volume.array.dtype
    if dtype.kind == "f":
        return np.asfortranarray(array, np.float32)
    if dtype.itemsize == 8:  # not every NIfTI reader knows 64 bits
        dtype = np.dtype(np.int32)
    limits = np.iinfo(dtype)
    return np.asfortranarray(np.clip(np.rint(array), limits.min, limits.max).astype(dtype))


def _copy(source: Path, target: Path) -> None:
    """T2's own file: its voxels and its grid untouched, the text of its header left out."""
    target.write_bytes(without_text(source))


def _like(reference: Volume, array: Array, source: Volume) -> Any:
    """A NIfTI image of an array on the reference's grid, with the reference's own geometry."""
    synthetic = is_synthetic(source.header)
    return image_like(reference.header, reference.affine, array, synthetic=synthetic)


def _grid(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.array.shape),
        "affine": volume.affine.tolist(),
        "synthetic": is_synthetic(volume.header),
    }


def _figures(alignment: Alignment) -> dict[str, Any]:
    """The quality figures of one sequence."""
    return {
        "similarity_before": alignment.before,
        "similarity_after": alignment.after,
        "rotation_degrees": alignment.degrees,
        "shift_mm": alignment.shift_mm,
        "shift_of_brain_centre_lps_mm": list(alignment.shift),
        "overlap": alignment.overlap,
        "distinctness": alignment.distinctness,
        "flags": list(alignment.flags),
    }
