"""What brains and lesions of real patients have beyond tissue classes and one typical glioma.

Every piece has a name, a range and a random stream of its own, and is used only where it is asked
for: taking one in changes nothing that the others draw, so that the effect of each on training can
be measured (`speed/data/phantom_pieces.py`). Ranges follow what was measured on real patients;
`speed/data/phantom_realism.py` sets both side by side by region of the brain.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from datamodules.phantom.anatomy import Anatomy
from datamodules.phantom.fields import Field, Grid, layered_noise, sigmoid, smooth_noise
from errors import InputError

MODALITIES = ("t1", "t1ce", "t2", "flair")
PIECES = (
    "deep_grey",
    "surface",
    "dark_edge",
    "regions",
    "grey_contrast",
    "bright_white",
    "waves",
    "shading",
    "low_noise",
    "non_enhancing",
    "partial_rim",
    "small_core",
    "pale_core",
    "faint",
    "sites",
    "vessels",
)

# Log standard deviation of a region's signal between patients and modalities, against the same
# tissue elsewhere. On T1 and T1ce the cerebellum of real patients is also darker on average.
REGION_SPREAD = {
    "cerebellum and stem": 0.14,
    "temporal pole": 0.08,
    "insula": 0.06,
    "occipital lobe": 0.06,
    "frontal lobe": 0.06,
    "cingulate": 0.05,
}
REGION_MEAN = {("cerebellum and stem", "t1"): -0.05, ("cerebellum and stem", "t1ce"): -0.08}
GREY_MEAN = {"t1": 0.0, "t1ce": 0.0, "t2": 0.0, "flair": 0.04}  # log, grey against white matter
GREY_SPREAD = {"t1": 0.06, "t1ce": 0.06, "t2": 0.06, "flair": 0.08}
BRIGHT_WHITE = (0.03, 0.08)  # log, mean and sd of a diffuse change of white matter; negative: none
BRIGHT_WHITE_SHARE = {"t1": -0.3, "t1ce": -0.3, "t2": 0.6, "flair": 1.0}
WAVES_MM, WAVES = (35.0, 40.0), 0.05  # log amplitude, at most
SURFACE_TISSUE = (0.1, 0.7)  # share of the fluid at the surface that is tissue
SURFACE_MM = 8.0
DARK_EDGE, DARK_EDGE_MM = 0.8, (0.8, 2.5)  # share of signal lost at the surface, at most; depth
DEEP_GREY = (0.3, 1.0)  # how far basal ganglia and thalamus lie from grey towards white matter
SHADED = 0.8  # share of patients
SHADING = (
    0.05,
    0.12,
    0.16,
)  # log sd from the centre to the edge along x, y, z, and of its fall
SHARED = 0.6  # correlation, squared: of what the modalities of one patient have in common
LOW_NOISE, NOISE_FACTOR = 0.7, (0.3, 0.8)  # share of images, factor
HALF_BRAIN_MM = (68.0, 86.0, 66.0)


class Pieces:
    """The pieces of one patient, each with a random stream of its own.

    Args:
        seed: the cohort's seed.
        index: the patient's number, from 0.
        taken: pieces to take in.
    """

    def __init__(self, seed: int, index: int, taken: Collection[str] = ()) -> None:
        self._key = (seed, index)
        self._taken = frozenset(taken)

    def stream(self, piece: str) -> np.random.Generator | None:
        """Return the random stream of a piece; None where it is not taken in."""
        place = PIECES.index(piece)
        if piece not in self._taken:
            return None
        return np.random.default_rng([*self._key, 1000 + place])

    def happens(self, piece: str, share: float) -> np.random.Generator | None:
        """Return the stream of a piece for a share of the patients, None for the others."""
        rng = self.stream(piece)
        return rng if rng is not None and rng.random() < share else None


def check_pieces(taken: Collection[str]) -> list[str]:
    """Return pieces in their order.

    Raises:
        InputError: for an unknown piece.
    """
    unknown = sorted(set(taken) - set(PIECES))
    if unknown:
        raise InputError(
            f"The phantom has no piece '{unknown[0]}': choose among {', '.join(PIECES)}."
        )
    return [piece for piece in PIECES if piece in taken]


def mature(pieces: Pieces, brain: Anatomy) -> Anatomy:
    """Move tissue fractions from the template's towards those of patients.

    Iron and myelin make deep grey matter look like white matter, and the averaged template has
    more fluid between the folds than a brain.
    """
    white, grey, fluid = brain.white, brain.grey, brain.fluid
    if rng := pieces.stream("deep_grey"):
        moved = np.float32(rng.uniform(*DEEP_GREY)) * _deep_grey(brain.mni) * grey
        white, grey = white + moved, grey - moved
    if rng := pieces.stream("surface"):
        near = np.exp(-((np.clip(brain.depth, 0, None) / np.float32(SURFACE_MM)) ** 2))
        moved = np.float32(rng.uniform(*SURFACE_TISSUE)) * near * fluid
        grey, fluid = grey + moved, fluid - moved
    return replace(brain, white=white, grey=grey, fluid=fluid)


def log_contrast(pieces: Pieces, brain: Anatomy, grid: Grid) -> dict[str, Field]:
    """Return the logarithm of the factor on healthy signal of each modality, (*grid.shape)."""
    total = {modality: np.zeros(grid.shape, np.float32) for modality in MODALITIES}
    if rng := pieces.stream("regions"):
        for name, region in _regions(brain.mni).items():
            for modality, value in _partly_shared(rng, REGION_SPREAD[name]).items():
                mean = REGION_MEAN.get((name, modality), 0.0)
                total[modality] += np.float32(mean + value) * region
    if rng := pieces.stream("grey_contrast"):
        for modality in MODALITIES:
            value = rng.normal(GREY_MEAN[modality], GREY_SPREAD[modality])
            total[modality] += np.float32(value) * brain.grey
    if rng := pieces.stream("bright_white"):
        amount = np.float32(max(0.0, rng.normal(*BRIGHT_WHITE)))
        place = np.clip(0.7 + 0.5 * layered_noise(rng, grid, (60.0, 25.0)), 0, 2) * brain.white
        for modality, share in BRIGHT_WHITE_SHARE.items():
            total[modality] += amount * np.float32(share) * place
    if rng := pieces.stream("waves"):
        common = smooth_noise(rng, grid, rng.uniform(*WAVES_MM))
        for modality in MODALITIES:
            own = smooth_noise(rng, grid, rng.uniform(*WAVES_MM))
            wave = SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own
            total[modality] += np.float32(rng.uniform(0, WAVES)) * wave
    return total


def edge_factor(pieces: Pieces, brain: Anatomy) -> Field:
    """Return the factor on all signals near the surface, (*grid.shape).

    Masks of skull-strippers hold some bone and dura, which are dark in every sequence.
    """
    rng = pieces.stream("dark_edge")
    if rng is None:
        return np.ones(brain.depth.shape, np.float32)
    lost, width = np.float32(rng.uniform(0, DARK_EDGE)), np.float32(rng.uniform(*DARK_EDGE_MM))
    return 1 - lost * np.exp(-((np.clip(brain.depth, 0, None) / width) ** 2))


def log_shading(pieces: Pieces, grid: Grid) -> dict[str, Field]:
    """Return the logarithm of a drift along the axes for each modality, to broadcast.

    It falls off from the centre, as the sensitivity of a coil does, and leans to one side.
    """
    rng = pieces.happens("shading", SHADED)
    if rng is None:
        return {modality: np.zeros((1, 1, 1), np.float32) for modality in MODALITIES}
    total = {modality: np.zeros(grid.shape, np.float32) for modality in MODALITIES}
    for axis, half, spread in zip(grid.axes(), HALF_BRAIN_MM, SHADING, strict=True):
        place = axis / np.float32(half)
        for modality, lean in _partly_shared(rng, spread).items():
            fall = abs(rng.normal(0, spread))
            total[modality] += np.float32(lean) * place - np.float32(fall) * place**2
    return total


def noise_factors(pieces: Pieces) -> dict[str, float]:
    """Return the factor on the noise of each modality."""
    rng = pieces.stream("low_noise")
    if rng is None:
        return dict.fromkeys(MODALITIES, 1.0)
    return {
        modality: rng.uniform(*NOISE_FACTOR) if rng.random() < LOW_NOISE else 1.0
        for modality in MODALITIES
    }


def _partly_shared(rng: np.random.Generator, spread: float) -> dict[str, float]:
    """A normal number for each modality, with what they have in common."""
    common, own = rng.normal(0, spread), rng.normal(0, spread, len(MODALITIES))
    values = SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own
    return dict(zip(MODALITIES, values.tolist(), strict=True))


def _ellipsoid(
    mni: tuple[Field, Field, Field],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> Field:
    """1 inside an ellipsoid of both hemispheres (mm, MNI), soft at its edge."""
    x, y, z = mni
    square = sum(
        ((axis - np.float32(c)) / np.float32(r)) ** 2
        for axis, c, r in zip((np.abs(x), y, z), centre, radii, strict=True)
    )
    return sigmoid(6 * (1 - np.sqrt(square)))


def _deep_grey(mni: tuple[Field, Field, Field]) -> Field:
    """Thalamus, putamen with pallidum, head of the caudate: 0 to 1."""
    parts = (
        _ellipsoid(mni, (12, -18, 8), (12, 15, 11)),
        _ellipsoid(mni, (25, 2, 0), (10, 20, 14)),
        _ellipsoid(mni, (12, 14, 8), (8, 12, 14)),
    )
    found: Field = np.maximum.reduce(parts)
    return found


def _regions(mni: tuple[Field, Field, Field]) -> dict[str, Field]:
    """Regions of `REGION_SPREAD`, 0 to 1, rough and soft at their edges (mm, MNI)."""
    x, y, z = mni
    side = np.abs(x)
    cerebellum = sigmoid((-14 - z) / 4) * sigmoid((-38 - y) / 5)
    stem = sigmoid((-10 - z) / 4) * sigmoid((14 - side) / 3) * sigmoid((-8 - y) / 4)
    return {
        "cerebellum and stem": np.maximum(cerebellum, stem),
        "temporal pole": sigmoid((-8 - z) / 5) * sigmoid((y + 5) / 6) * sigmoid((side - 20) / 4),
        "insula": _ellipsoid(mni, (38, 2, 0), (8, 22, 15)),
        "occipital lobe": sigmoid((-70 - y) / 5) * sigmoid((z + 12) / 4),
        "frontal lobe": sigmoid((y - 15) / 8) * sigmoid((z - 4) / 8),
        "cingulate": _ellipsoid(mni, (0, -2, 28), (11, 42, 17)),
    }
