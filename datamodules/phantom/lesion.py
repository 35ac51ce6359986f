"""A glioma for one phantom brain: plan, mass effect, and nested soft compartments.

A core (noise-warped ellipsoids, cut to an exact volume) holds necrosis or non-enhancing tumour
behind an enhancing rim with gaps; oedema spreads from it by the travel time of a front that is
fast in white matter, slow in grey matter and stopped by fluid, which gives the finger-like edge
between the gyri (front propagation as in Konukoglu et al., 2010, doi:10.1109/TMI.2009.2026413).
"""

from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage as ndi

from datamodules.phantom.anatomy import Anatomy, Pose, load_template
from datamodules.phantom.fields import Field, Grid, layered_noise, sigmoid, smooth_noise
from datamodules.phantom.variety import Pieces

# Whole tumour of the nine measured patients: 30 to 217 ml, median 121; core 3 to 107 ml. The
# median here is lower and the spread wider, for the smaller lesions of the public cohorts.
MEDIAN_ML, SPREAD, SMALLEST_ML, LARGEST_ML = 95.0, 0.7, 8.0, 230.0
CORE_SHARE = (2.0, 2.6)  # Beta distribution of core volume / whole tumour volume
WITHOUT_ENHANCEMENT = 0.15  # one of the three measured patients; low-grade share of BraTS 2018 26 %
INFRATENTORIAL = 0.08  # share of patients; gliomas of adults, 5 to 10 %
FAR_FOCI = 0.15  # share of patients with more foci, far from the first
MULTIFOCAL = 0.20  # published shares of multifocal glioblastoma: 10 to 30 %
FLUID_CORE = 0.30  # necrosis dark on FLAIR, as in the measured range down to -1.0

NECROSIS, OEDEMA, ENHANCING = 1, 2, 3  # label codes of the simulation


@dataclass(frozen=True)
class Focus:
    """One ellipsoid of the core."""

    centre: np.ndarray  # grid mm
    shape: np.ndarray  # (3, 3): to a frame where the ellipsoid is a sphere of its mean radius
    size: float  # relative radius


@dataclass(frozen=True)
class LesionPlan:
    """Properties of a lesion that are drawn before the brain around it is deformed."""

    whole_ml: float
    core_ml: float
    foci: tuple[Focus, ...]
    enhancing: bool
    rim_mm: float
    pressure: float  # mass effect: displacement at the core's edge in core radii
    fluid_core: bool

    @property
    def radius(self) -> float:
        """Radius (mm) of a sphere with the main focus' share of the core volume."""
        share = self.foci[0].size ** 3 / sum(f.size**3 for f in self.foci)
        return float((3000 * self.core_ml * share / (4 * np.pi)) ** (1 / 3))


@dataclass
class Lesion:
    """Soft compartments (fractions of a voxel, they replace tissue in this order) and label."""

    oedema: Field
    solid: Field  # necrotic or non-enhancing core
    fluid: Field  # liquefied necrosis
    enhancing: Field
    label: np.ndarray  # uint8: 0, NECROSIS, OEDEMA, ENHANCING


def plan_lesion(
    rng: np.random.Generator, pose: Pose, enhancing: bool, pieces: Pieces
) -> LesionPlan:
    """Draw size, place, shape and kind of one patient's lesion."""
    whole = float(np.clip(MEDIAN_ML * np.exp(SPREAD * rng.normal()), SMALLEST_ML, LARGEST_ML))
    share = float(np.clip(rng.beta(*CORE_SHARE), 0.03, 0.95))
    foci = [_draw_focus(rng, _draw_centre(rng, pose), 1.0)]
    if rng.random() < MULTIFOCAL:
        for _ in range(rng.integers(1, 3)):
            direction = rng.normal(size=3)
            step = rng.uniform(18, 50) * direction / np.linalg.norm(direction)
            foci.append(_draw_focus(rng, foci[0].centre + step, rng.uniform(0.35, 0.8)))
    plan = LesionPlan(
        whole_ml=whole,
        core_ml=whole * share,
        foci=tuple(foci),
        enhancing=enhancing,
        rim_mm=float(np.exp(rng.uniform(np.log(1.6), np.log(6.0)))),
        pressure=float(rng.uniform(0.05, 0.55)),
        fluid_core=bool(rng.random() < FLUID_CORE),
    )
    return _move(plan, pose, pieces)


def _move(plan: LesionPlan, pose: Pose, pieces: Pieces) -> LesionPlan:
    """Put some lesions below the tentorium, and give some more foci far from the first."""
    draw = pieces.stream("sites")
    if draw is None:
        return plan
    if draw.random() < INFRATENTORIAL:
        focus = _draw_focus(draw, _below_the_tentorium(draw, pose), 1.0)
        smaller = draw.uniform(0.15, 0.5)  # there is less room
        whole = max(plan.whole_ml * smaller, SMALLEST_ML)
        core = plan.core_ml * whole / plan.whole_ml
        return replace(plan, foci=(focus,), whole_ml=whole, core_ml=core)
    if draw.random() < FAR_FOCI:
        more = [
            _draw_focus(draw, _draw_centre(draw, pose), draw.uniform(0.25, 0.6))
            for _ in range(draw.integers(1, 4))
        ]
        return replace(plan, foci=(*plan.foci, *more))
    return plan


def _below_the_tentorium(rng: np.random.Generator, pose: Pose) -> np.ndarray:
    """A point (grid mm) in a cerebellar hemisphere or in the brain stem."""
    if rng.random() < 0.3:
        mni = rng.normal([0, -28, -32], [4, 4, 7])
    else:
        side = rng.choice([-1, 1])
        mni = rng.normal([24 * side, -62, -38], [7, 7, 5])
    return pose.to_grid(mni[None])[0]


def _draw_centre(rng: np.random.Generator, pose: Pose) -> np.ndarray:
    """A point (grid mm) in cerebral white matter, more often frontal, temporal or parietal."""
    template = load_template()
    white = template.cerebral_white
    index = np.argwhere(white > 0.25)
    mni = index * 4.0 + np.array(template.origin)
    weight = white[tuple(index.T)].astype(np.float64)
    weight *= np.where(np.abs(mni[:, 0]) < 12, 0.25, 1.0)  # midline and brain stem: rare
    weight *= np.where((mni[:, 2] < -22) & (mni[:, 1] < -35), 0.08, 1.0)  # cerebellum: rare
    weight *= np.where(mni[:, 1] < -65, 0.5, 1.0)  # occipital lobe: seldom
    weight *= np.where(mni[:, 2] < -5, 2.0, 1.0)  # temporal lobe holds little white matter
    chosen = mni[rng.choice(len(mni), p=weight / weight.sum())] + rng.uniform(-2, 2, 3)
    return pose.to_grid(chosen[None])[0]


def _draw_focus(rng: np.random.Generator, centre: np.ndarray, size: float) -> Focus:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    stretch = np.exp(rng.normal(0, 0.22, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    return Focus(centre, turn @ np.diag(stretch) @ turn.T, size)


def _radius(focus: Focus, grid: Grid) -> Field:
    """Distance (mm, in the ellipsoid's own metric) of every voxel from a focus."""
    axes = grid.axes()
    offset = [axes[i] - np.float32(focus.centre[i]) for i in range(3)]
    matrix = focus.shape.astype(np.float32)
    squares = (
        sum((matrix[r, c] * offset[c] for c in range(3)), np.float32(0)) ** 2 for r in (0, 1, 2)
    )
    return np.sqrt(sum(squares, np.zeros(grid.shape, np.float32)))


def mass_effect(plan: LesionPlan, grid: Grid) -> tuple[Field, Field, Field]:
    """Displacement (mm along each axis) of tissue away from the main focus."""
    radius = max(plan.radius, 4.0)
    focus = plan.foci[0]
    axes = grid.axes()
    offset = [axes[i] - np.float32(focus.centre[i]) for i in range(3)]
    r = np.sqrt(offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2)
    reach = np.exp(-np.clip(r - radius, 0, None) / (0.9 * radius)) * np.clip(r / radius, 0, 1)
    scale = np.float32(plan.pressure * radius) * reach / np.maximum(r, 1e-3)
    return offset[0] * scale, offset[1] * scale, offset[2] * scale


def grow_lesion(rng: np.random.Generator, plan: LesionPlan, brain: Anatomy, grid: Grid) -> Lesion:
    """Grow the planned lesion in a patient's brain."""
    # The mass effect pushes tissue out of the main focus; a ventricle there is filled, as a mass
    # closes it, and stays a ventricle elsewhere.
    filled = _radius(plan.foci[0], grid) < 0.85 * plan.radius
    room = brain.mask & ((brain.ventricle > 0.5) | filled)
    core_level = _core_level(rng, plan, grid, room, brain)
    core = (core_level > 0) & room
    front = _travel_time(rng, core, brain, grid)
    whole_ml = min(plan.whole_ml, 0.45 * brain.mask.sum() * grid.voxel_ml)
    tissue = room & (brain.fluid < 0.6) & np.isfinite(front) & ~core
    wanted = int(max(whole_ml / grid.voxel_ml - core.sum(), 0))
    times = front[tissue]
    reach = (
        float(np.partition(times, wanted)[wanted]) if wanted < len(times) else float(times.max())
    )
    oedema_region = tissue & (front < reach)
    # Infiltration weakens outwards and is weaker in cortex; the visible edge is 1 to 3 mm soft.
    softness = np.float32(rng.uniform(0.6, 2.2))
    strength = 1 - np.float32(rng.uniform(0.0, 0.3)) * np.clip(front / max(reach, 1.0), 0, 1)
    strength *= 1 - np.float32(rng.uniform(0.0, 0.35)) * brain.grey
    strength *= np.clip(1 + 0.15 * layered_noise(rng, grid, (16.0, 7.0)), 0.4, 1.2)
    oedema = sigmoid((np.float32(reach) - front) / softness) * np.clip(strength, 0, 1)
    oedema = np.where(np.isfinite(front), oedema, 0) * (1 - brain.fluid)

    depth = np.zeros(grid.shape, np.float32)
    box = tuple(
        slice(max(s.start - 1, 0), s.stop + 1) for s in ndi.find_objects(core.astype(np.int8))[0]
    )
    depth[box] = ndi.distance_transform_edt(core[box], grid.spacing)
    rim_region = _rim(rng, plan, grid, core, depth)
    label = np.zeros(grid.shape, np.uint8)
    label[oedema_region] = OEDEMA
    label[core] = NECROSIS
    label[rim_region] = ENHANCING

    edge = np.float32(rng.uniform(0.35, 1.0))
    inside = sigmoid(core_level / edge) * brain.mask * (filled | (brain.ventricle > -0.5))
    ring = ndi.gaussian_filter(rim_region.astype(np.float32), 0.45 / grid.spacing + 0.1)
    ring *= np.clip(0.85 + 0.3 * layered_noise(rng, grid, (14.0, 6.0)), 0.25, 1.0)
    ring = np.minimum(ring, 1)
    liquid = np.zeros(grid.shape, np.float32)
    if plan.fluid_core:
        pool = depth - rng.uniform(1.0, 5.0) + 2.0 * layered_noise(rng, grid, (18.0, 8.0))
        liquid = sigmoid(pool / np.float32(0.8)) * np.float32(rng.uniform(0.6, 1.0))
    rest = np.clip(inside - ring, 0, 1)
    return Lesion(
        oedema=oedema * np.clip(1 - inside - ring, 0, 1),
        solid=rest * (1 - liquid),
        fluid=rest * liquid,
        enhancing=ring,
        label=label,
    )


def _core_level(
    rng: np.random.Generator, plan: LesionPlan, grid: Grid, room: np.ndarray, brain: Anatomy
) -> Field:
    """Signed level (mm, positive inside) of the core, cut to its exact volume."""
    radius: Field = np.full(grid.shape, np.inf, np.float32)
    for focus in plan.foci:
        radius = np.minimum(radius, _radius(focus, grid) / np.float32(focus.size))
    knots = max(0.9 * plan.radius, 8.0), max(0.4 * plan.radius, 5.0)
    warp = np.float32(rng.uniform(0.12, 0.3)) * layered_noise(rng, grid, knots)
    radius = radius * np.exp(warp) * (1 + 0.35 * brain.fluid + 0.12 * brain.grey)
    wanted = max(int(plan.core_ml / grid.voxel_ml), 12)
    inside = radius[room]
    cut = float(np.partition(inside, wanted)[wanted])
    return np.float32(cut) - radius


def _rim(
    rng: np.random.Generator, plan: LesionPlan, grid: Grid, core: np.ndarray, depth: Field
) -> np.ndarray:
    """The enhancing part of the core: an uneven shell with gaps, sometimes nodules and septa."""
    if not plan.enhancing:
        return np.zeros(grid.shape, bool)
    texture = layered_noise(rng, grid, (20.0, 9.0))
    thickness = plan.rim_mm * np.clip(1 + rng.uniform(0.3, 0.9) * texture, 0, 2.2)
    outer = np.clip(rng.uniform(-2.5, 1.5) + 1.5 * layered_noise(rng, grid, (22.0,)), 0, None)
    rim = core & (depth > outer) & (depth <= outer + thickness + 0.4 * grid.spacing)
    rim &= thickness > rng.uniform(0.0, 0.45) * plan.rim_mm
    if rng.random() < 0.35:  # septa and solid nodules inside the core
        inner = smooth_noise(rng, grid, 14.0)
        rim |= core & (np.abs(inner) < rng.uniform(0.05, 0.25)) & (texture > 0)
        rim |= core & (texture > rng.uniform(0.9, 2.0))
    return rim


def _travel_time(rng: np.random.Generator, core: np.ndarray, brain: Anatomy, grid: Grid) -> Field:
    """Arrival (mm of white matter) of a front that starts at the core; infinite where it cannot go.

    Solved on voxels of at least 2 mm by relaxation over 18 neighbours, within 45 mm of the core.
    """
    stride = max(1, round(2.0 / grid.spacing))
    step = grid.spacing * stride
    slow_grey, patchy = rng.uniform(1.5, 4.0), rng.uniform(0.2, 0.6)
    cost = 1 + np.float32(slow_grey) * brain.grey + 25 * np.clip(brain.fluid - 0.25, 0, None)
    cost *= np.exp(np.float32(patchy) * layered_noise(rng, grid, (24.0, 10.0)))
    cost[~brain.mask | (brain.ventricle < 0.5)] = np.inf
    where = ndi.find_objects(core.astype(np.int8))[0]
    margin = round(45 / grid.spacing)
    box = tuple(
        slice(max(s.start - margin, 0) // stride * stride, min(s.stop + margin, n))
        for s, n in zip(where, grid.shape, strict=True)
    )
    pace = cost[box][::stride, ::stride, ::stride]
    start = core[box][::stride, ::stride, ::stride]
    time = _relax(np.where(start, 0, np.inf).astype(np.float32), pace.astype(np.float32), step)
    # Smooth over reached voxels only: the front has no staircase, and no leak through fluid.
    reached = np.isfinite(time)
    weight = np.maximum(ndi.gaussian_filter(reached.astype(np.float32), 0.8), 1e-3)
    time = ndi.gaussian_filter(np.where(reached, time, 0), 0.8) / weight
    if stride > 1:
        shape = core[box].shape
        index = np.meshgrid(
            *[np.arange(n, dtype=np.float32) / stride for n in shape], indexing="ij"
        )
        time = ndi.map_coordinates(time, np.stack(index), order=1, mode="nearest")
        reached = np.repeat(np.repeat(np.repeat(reached, stride, 0), stride, 1), stride, 2)
        reached = reached[: shape[0], : shape[1], : shape[2]]
    front = np.full(grid.shape, np.inf, np.float32)
    front[box] = np.where(reached, time, np.inf)
    return front


def _relax(time: Field, pace: Field, step: float) -> Field:
    """Shortest travel times by repeated relaxation over the 18 nearest neighbours."""
    padded = np.pad(time, 1, constant_values=np.inf)
    inner = (slice(1, -1), slice(1, -1), slice(1, -1))
    paces = {n: np.float32(step * np.sqrt(n)) * pace for n in (1, 2)}
    moves = []
    for index in np.ndindex(3, 3, 3):
        steps = sum(i != 1 for i in index)
        if 0 < steps < 3:
            view = tuple(slice(i, n - 2 + i) for i, n in zip(index, padded.shape, strict=True))
            moves.append((view, paces[steps]))
    for _ in range(50):
        best = padded[inner].copy()
        for view, cost in moves:
            np.minimum(best, padded[view] + cost, out=best)
        if np.array_equal(best, padded[inner]):
            break
        padded[inner] = best
    return padded[inner]
