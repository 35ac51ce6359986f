"""A phantom patient as a hospital delivers it: four sequences, four grids, a head that moved.

T2 is the reference. Between sequences the head has turned by up to 20 degrees and shifted by up to
20 mm; the true transforms are written beside the images in SimpleITK's text format and convention:
a point of the T2 image is mapped to the same tissue's point in the moving image (LPS, mm).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi

from datamodules.phantom.anatomy import Anatomy
from datamodules.phantom.fields import Field, Grid
from datamodules.phantom.files import save_nifti
from datamodules.phantom.scanner import digitise, shade

MAX_DEGREES, MAX_MM = 20.0, 20.0
FIELD_MM = (205.0, 235.0, 205.0)  # field of view, right-left, front-back, bottom-top
_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Protocol:
    """The slicing of one sequence; lengths in voxels of the simulation, or mm where larger."""

    axes: str  # directions of the array's axes; the last is across the slices
    in_plane: float
    slices: float  # mm
    oblique: float  # degrees, at most


# Orientations and slice distances as hospitals use them; axial ones as in a TCGA-LGG examination
# (5 mm T1 and T2, LAS), a 3D T1ce stored sagittally, a coronal FLAIR.
PROTOCOLS = {
    "t1": Protocol("LAS", 1.0, 5.0, 6.0),
    "t1ce": Protocol("PSR", 1.0, 1.0, 0.0),
    "t2": Protocol("LPS", 0.75, 4.0, 6.0),
    "flair": Protocol("LSA", 1.0, 3.0, 4.0),
}


@dataclass(frozen=True)
class Motion:
    """A rigid motion in LPS millimetres about the world origin: moved = rotation @ p + shift."""

    angles: np.ndarray  # radians about x, y, z, applied as SimpleITK's Euler3D does (Z X Y)
    shift: np.ndarray  # mm

    @property
    def rotation(self) -> np.ndarray:
        """Rotation matrix Rz @ Rx @ Ry of `itk::Euler3DTransform`."""
        (cx, cy, cz), (sx, sy, sz) = np.cos(self.angles), np.sin(self.angles)
        rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        return rz @ rx @ ry

    @property
    def degrees(self) -> float:
        """Total angle of the rotation."""
        return float(np.rad2deg(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1))))


def draw_motion(rng: np.random.Generator) -> Motion:
    """A motion within MAX_DEGREES and MAX_MM, small ones as likely as large ones."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    angles = np.deg2rad(rng.uniform(1, 0.97 * MAX_DEGREES)) * axis
    motion = Motion(angles, rng.uniform(1, MAX_MM) * direction)
    if motion.degrees > MAX_DEGREES:  # Euler angles of that size add up a little differently
        motion = Motion(angles * MAX_DEGREES / motion.degrees * 0.98, motion.shift)
    return motion


def write_exam(
    folder: Path,
    case_id: str,
    signals: Mapping[str, Field],
    brain: Anatomy,
    label: np.ndarray,
    grid: Grid,
    streams: Mapping[str, np.random.Generator],
    note: str,
    noise: Mapping[str, float],
) -> None:
    """Write one examination into `folder`, which must exist: images, label on T2, true motion."""
    truth: dict[str, object] = {"SYNTHETIC": note, "reference": "t2"}
    for modality, signal in signals.items():
        rng = streams[modality]
        still = Motion(np.zeros(3), np.zeros(3))
        motion = still if modality == "t2" else draw_motion(rng)
        protocol = PROTOCOLS[modality]
        shape, affine = _own_grid(rng, protocol, grid, motion)
        inside = _resample(brain.mask.astype(np.float32), grid, shape, affine, motion, 1) > 0.5
        shaded = shade(rng, signal, brain, grid)
        samples = max(1, round(protocol.slices / grid.spacing))
        image = _resample(shaded, grid, shape, affine, motion, samples)
        array = digitise(rng, image, inside, grid.spacing, resampled=False, noise=noise[modality])
        save_nifti(folder / f"{case_id}_{modality}.nii.gz", array, affine, note)
        if modality == "t2":
            on_t2 = _resample(label, grid, shape, affine, motion, 1, order=0)
            on_t2 = np.where(inside, on_t2, 0).astype(np.uint8)
            save_nifti(folder / f"{case_id}_seg.nii.gz", on_t2, affine, note)
        else:
            _write_transform(folder / f"true_{modality}_to_t2.tfm", motion, note)
            truth[modality] = {"degrees": motion.degrees, "shift_mm": motion.shift.tolist()}
    (folder / f"{case_id}.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")


def _own_grid(
    rng: np.random.Generator, protocol: Protocol, grid: Grid, motion: Motion
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and RAS affine of a sequence, centred near where the moved head lies."""
    step = [protocol.in_plane * grid.spacing] * 2 + [max(protocol.slices, grid.spacing)]
    world = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[code] for code in protocol.axes]
    sign = [1.0 if code in "RAS" else -1.0 for code in protocol.axes]
    direction = np.zeros((3, 3))
    for column, (row, way) in enumerate(zip(world, sign, strict=True)):
        direction[row, column] = way
    tilt = Motion(np.deg2rad(rng.uniform(-1, 1, 3) * protocol.oblique / np.sqrt(3)), np.zeros(3))
    matrix = tilt.rotation @ direction @ np.diag(step)
    shape = tuple(int(np.ceil(FIELD_MM[w] / s)) for w, s in zip(world, step, strict=True))
    centre = _LPS @ motion.shift + rng.normal(0, 2, 3)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = centre - matrix @ ((np.array(shape) - 1) / 2)
    return (shape[0], shape[1], shape[2]), affine


def _resample(
    volume: np.ndarray,
    grid: Grid,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    motion: Motion,
    samples: int,
    order: int = 1,
) -> np.ndarray:
    """Sample a volume of the simulation's grid on a moved grid, averaging across the slice."""
    back = _LPS @ motion.rotation.T @ _LPS  # moved RAS point to the T2 head's RAS point
    to_head = back @ affine[:3, :3] / grid.spacing
    start = back @ (affine[:3, 3] - _LPS @ motion.shift) / grid.spacing
    start = start + (np.array(grid.shape) - 1) / 2
    total = np.zeros(shape, np.float32)
    for n in range(samples):
        across = (n + 0.5) / samples - 0.5
        total += ndi.affine_transform(
            volume.astype(np.float32),
            to_head,
            offset=start + to_head[:, 2] * across,
            output_shape=shape,
            order=order,
            mode="constant",
        )
    return total / np.float32(samples)


def _write_transform(path: Path, motion: Motion, note: str) -> None:
    """Write the motion as `itk::Euler3DTransform`; the format allows comment lines."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    transform = sitk.Euler3DTransform()
    transform.SetRotation(*(float(a) for a in motion.angles))
    transform.SetTranslation([float(s) for s in motion.shift])
    sitk.WriteTransform(transform, str(path))
    head, rest = path.read_text().split("\n", 1)
    path.write_text(f"{head}\n# {note}\n{rest}")
