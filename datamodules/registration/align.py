"""Rigid registration of one sequence to T2: where a point of T2 lies in the other sequence.

Mutual information (Mattes et al., "PET-CT image registration in the chest using free-form
deformations", IEEE TMI 2003) over three levels; the coarsest from many starts, so that heads
turned by 20 degrees, unrelated scanner coordinates and partial fields are found. The metric is
taken inside T2's brain or head and a rim around it. Every draw has a fixed seed, and SimpleITK
computes in one thread, so the same files give the same bytes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.registration.scan import Scan, to_index
from errors import InputError

REGISTRATION_VERSION = 2  # part of the fingerprint of finished work: raise it when results change
REFERENCE = "t2"
MAX_DEGREES, MAX_MM = 30.0, 40.0  # a head in one examination moves less: more is a failure
LEAST_OVERLAP = 0.6  # of T2's brain or head that the other sequence must show
# Share of the similarity at the start; grids that coincide already measure a little higher.
WORSE = 0.9
LEAST_DISTINCTNESS = 1.12  # the same brain reaches 1.3 to 4, another real one 1.0 to 1.05
_AWAY_DEGREES, _INSIDE_MM = 10.0, 6.0
RIM_MM = 8.0  # around the brain, so that its outline counts, but not more distant tissue
_SEED = 20200
_BINS = 32
_START_DEGREES = 12.0
_LEVER_MM = 80.0  # a turn of one radian counts as this shift: a brain's radius


@dataclass(frozen=True)
class _Level:
    """One step from coarse to fine."""

    spacing: float  # mm
    samples: int
    step: float  # mm, the first; it shrinks to `stop`
    stop: float
    iterations: int
    kept: int  # starts that are refined at the next level


_LEVELS = (
    _Level(spacing=8.0, samples=3000, step=8.0, stop=0.4, iterations=25, kept=3),
    _Level(spacing=4.0, samples=8000, step=2.0, stop=0.1, iterations=40, kept=1),
    _Level(spacing=2.0, samples=40000, step=1.0, stop=0.02, iterations=40, kept=1),
)

_CHECK = replace(_LEVELS[-1], samples=20000)


@dataclass(frozen=True)
class Alignment:
    """The result for one sequence.

    Attributes:
        transform: `SimpleITK.Euler3DTransform`, T2 point to this sequence's point (LPS mm).
        before: Mutual information (nats) with the positions that the files state.
        after: Mutual information after registration.
        degrees: Total angle of the rotation.
        shift: Displacement of the centre of T2's brain or head, LPS mm.
        overlap: Share of T2's brain or head that this sequence shows.
        distinctness: Similarity inside the brain over that with the head turned by 10 degrees.
        flags: Why the result must be looked at before use; empty when it need not.
    """

    transform: Any
    before: float
    after: float
    degrees: float
    shift: tuple[float, float, float]
    overlap: float
    distinctness: float
    flags: tuple[str, ...]

    @property
    def shift_mm(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self.shift))


def align(fixed: Scan, moving: Scan) -> Alignment:
    """Register `moving` rigidly to `fixed`.

    Raises:
        InputError: No start leads to an overlap of the two, or the search diverges.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name

    # The order of a sum changes its result. The metric takes its threads from this setting of the
    # whole process, and one thread each lets processes run side by side.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    centre = fixed.centre
    candidates = _starts(moving.centre - centre)
    value = np.inf
    for level in _LEVELS:
        found = []
        mask = _mask(fixed, level, RIM_MM)
        for parameters in candidates:
            method = _method(level, mask)
            transform = _euler(centre, parameters)
            method.SetInitialTransform(transform, True)
            method.SetOptimizerAsRegularStepGradientDescent(
                level.step, level.stop, level.iterations, relaxationFactor=0.6
            )
            method.SetOptimizerScales([_LEVER_MM**2] * 3 + [1.0] * 3)
            try:
                method.Execute(fixed.level(level.spacing), moving.level(level.spacing))
            except RuntimeError:  # this start left the moving image; others may succeed
                continue
            reached = (float(method.GetMetricValue()), tuple(transform.GetParameters()))
            if np.isfinite([reached[0], *reached[1]]).all():
                found.append(reached)
        if not found:
            raise InputError(
                f"registration of {moving.name} to {fixed.name} diverged, no position makes them "
                f"overlap: look whether {moving.name} shows the brain of this patient"
            )
        found.sort()
        candidates = [parameters for _, parameters in found[: level.kept]]
        value = found[0][0]
    return _judge(fixed, moving, _euler(centre, candidates[0]), -value)


def _starts(offset: npt.NDArray[Any]) -> list[tuple[float, ...]]:
    """Parameters to start from: the files' positions, and the centres of both heads aligned.

    Each with the head straight and turned either way about every axis.
    """
    angle = np.deg2rad(_START_DEGREES)
    turns = [np.zeros(3)]
    turns += [way * angle * np.eye(3)[axis] for axis, way in itertools.product(range(3), (1, -1))]
    # Where the files' positions are farther off than heads move, they are unrelated.
    shifts = [offset] + ([np.zeros(3)] if np.linalg.norm(offset) < 1.5 * MAX_MM else [])
    return [(*map(float, turn), *map(float, shift)) for shift in shifts for turn in turns]


def _euler(centre: Sequence[float] | npt.NDArray[Any], parameters: tuple[float, ...]) -> Any:
    import SimpleITK as sitk  # noqa: N813 - its customary name

    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(c) for c in centre])
    transform.SetParameters(list(parameters))
    return transform


def _mask(fixed: Scan, level: _Level, rim: float) -> Any:
    """Mask in which the similarity is measured: brain or head, and a rim of `rim` mm."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    near = sitk.SignedMaurerDistanceMap(
        fixed.foreground, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    image = fixed.level(level.spacing)
    near = sitk.Resample(near, image, sitk.Transform(), sitk.sitkLinear, 1e3)
    return sitk.Cast(near <= rim, sitk.sitkUInt8)


def _method(level: _Level, mask: Any) -> Any:
    """The registration method at one level, with fixed seeds."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    inside = max(1, int(np.count_nonzero(sitk.GetArrayViewFromImage(mask))))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, level.samples / inside), _SEED)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _similarity(
    fixed: Scan, moving: Scan, transforms: Sequence[Any], level: _Level, rim: float
) -> list[float]:
    """Mutual information at a level, 0 where the two do not overlap."""
    mask = _mask(fixed, level, rim)
    values = []
    for transform in transforms:
        method = _method(level, mask)
        method.SetInitialTransform(transform)
        method.MetricUseMovingImageGradientFilterOff()  # no step is taken: it would go unused
        method.MetricUseFixedImageGradientFilterOff()
        try:
            value = -method.MetricEvaluate(fixed.level(level.spacing), moving.level(level.spacing))
        except RuntimeError:
            value = 0.0
        values.append(float(value) if np.isfinite(value) else 0.0)
    return values


def _distinctness(fixed: Scan, moving: Scan, transform: Any) -> float:
    """Ratio of the similarity inside the brain to that with the head turned away.

    The outlines of any two brains can be aligned; only the same brain also fits inside.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name

    angle = np.deg2rad(_AWAY_DEGREES)
    centre = [float(c) for c in fixed.centre]
    turns = [way * angle * np.eye(3)[axis] for axis, way in itertools.product(range(3), (1, -1))]
    # Applied first: the head is turned about the centre of T2's brain.
    away = [
        sitk.CompositeTransform([transform, _euler(centre, (*map(float, turn), 0.0, 0.0, 0.0))])
        for turn in turns
    ]
    found, *turned = _similarity(fixed, moving, [transform, *away], _CHECK, -_INSIDE_MM)
    return float(found / max(float(np.mean(turned)), 1e-6))


def _judge(fixed: Scan, moving: Scan, transform: Any, after: float) -> Alignment:
    """Measure a result and flag implausible values."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    before = _similarity(fixed, moving, [sitk.Euler3DTransform()], _LEVELS[-1], RIM_MM)[0]
    distinctness = _distinctness(fixed, moving, transform)
    rotation = np.reshape(transform.GetMatrix(), (3, 3))
    degrees = float(np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    centre = fixed.centre
    moved = np.asarray(transform.TransformPoint([float(c) for c in centre])) - centre
    shift = (float(moved[0]), float(moved[1]), float(moved[2]))
    length = float(np.linalg.norm(moved))
    overlap = _overlap(fixed, moving, transform)
    flags = []
    if degrees > MAX_DEGREES or length > MAX_MM:
        flags.append(
            f"{moving.name} moved by {degrees:.0f} degrees and {length:.0f} mm, more than "
            f"{MAX_DEGREES:g} degrees or {MAX_MM:g} mm"
        )
    if after < WORSE * before or after <= 0:
        flags.append(
            f"{moving.name} is not more similar to {fixed.name} after registration "
            f"({after:.3f}) than before ({before:.3f})"
        )
    elif distinctness < LEAST_DISTINCTNESS:
        flags.append(
            f"the inside of {moving.name} fits {fixed.name} hardly better than at a wrong angle "
            f"({distinctness:.2f} times): it may be mirrored, of another patient, or diverged"
        )
    if overlap < LEAST_OVERLAP:
        flags.append(
            f"{moving.name} shows only {overlap:.0%} of what {fixed.name} shows, its field of view "
            "misses the brain or the registration failed"
        )
    return Alignment(transform, before, after, degrees, shift, overlap, distinctness, tuple(flags))


def _overlap(fixed: Scan, moving: Scan, transform: Any) -> float:
    """Share of the fixed foreground that lies on the moving foreground."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    rotation = np.reshape(transform.GetMatrix(), (3, 3))
    centre, shift = np.asarray(transform.GetCenter()), np.asarray(transform.GetTranslation())
    points = (fixed.points - centre) @ rotation.T + centre + shift
    size = np.asarray(moving.foreground.GetSize())
    index = np.rint(to_index(moving.foreground, points)).astype(int)
    within = ((index >= 0) & (index < size)).all(axis=1)
    index = index[within]
    mask = sitk.GetArrayViewFromImage(moving.foreground)
    shown = np.count_nonzero(mask[index[:, 2], index[:, 1], index[:, 0]])
    return float(shown / max(1, len(points)))
