"""Files in other formats than NIfTI, recognised by their first bytes, and how to convert them."""

import os
from pathlib import Path

DICOM = (".dcm", ".ima")
OTHER_IMAGES = (".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".mgz", ".mgh", ".mnc", *DICOM)
_MAGIC = (
    (b"NRRD", "an NRRD image"),
    (b"ObjectType", "a MetaImage"),
    (b"NDims", "a MetaImage"),
)


def foreign_format(raw: bytes, path: Path) -> str:
    """Return the format of a file without a NIfTI header, and what to do; empty when unknown.

    Args:
        raw: Its content, decompressed where it was gzip.
        path: Where it lies.
    """
    suffix = path.suffix.lower()
    if not raw:
        return "is empty (0 bytes): copy or download it again"
    if raw[128:132] == b"DICM" or suffix in DICOM:
        return f"is a DICOM file: convert its series with dcm2niix -z y {path.parent}"
    for magic, kind in _MAGIC:
        if raw.startswith(magic):
            return f"is {kind}: {conversion(path)}"
    if suffix in (".mgz", ".mgh"):
        command = f'import nibabel as n; n.save(n.load("{path}"), "{_target(path)}")'
        return f"is a FreeSurfer image: convert it with python -c '{command}'"
    if suffix == ".img":
        return f"is the half of a .hdr/.img pair that holds no header: {conversion(path)}"
    if raw.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image: fetch it with git lfs pull"
    if raw.startswith(b"PK\x03\x04"):
        return "is a zip archive: unpack it"
    return ""


def conversion(path: Path) -> str:
    """The command that writes an image of another format as NIfTI."""
    command = f'import SimpleITK as s; s.WriteImage(s.ReadImage("{path}"), "{_target(path)}")'
    return f"convert it with python -c '{command}'"


def _target(path: Path) -> Path:
    return path.with_name(f"{path.name.split('.')[0]}.nii.gz")


def foreign_images(root: Path) -> str:
    """Return the other images of a folder without NIfTI files, and how to convert them; or ""."""
    foreign = images_of_other_formats(root)
    if not foreign:
        return ""
    kinds = sorted({path.suffix.lower() or "DICOM" for path in foreign})
    series = [path for path in foreign if path.suffix.lower() in ("", *DICOM)]
    if series:
        how = f"dcm2niix -z y {series[0].parent}"
    else:
        how = (
            f"SimpleITK or nibabel, as {foreign[0].name} to {foreign[0].name.split('.')[0]}.nii.gz"
        )
    return f"it holds {len(foreign)} {', '.join(kinds)} files, no NIfTI: convert them with {how}"


def images_of_other_formats(root: Path) -> list[Path]:
    """Images in other formats; a DICOM file counts by its suffix, or where it has none."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix in OTHER_IMAGES or (not suffix and _is_dicom(path)):
                found.append(path)
    return found


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
