"""What brains and lesions of real patients have beyond tissue classes and one typical glioma.

Every piece has a name, a range and a random stream of its own, and leaving one out changes nothing
that the others draw, so that the effect of each on training can be measured. Ranges follow what
was measured on real patients, which `speed/data/phantom_realism.py` sets beside phantoms. Sixteen
pieces were tried (`speed/results/phantom_sixteen_pieces.json`): these are the ones that stayed.
"""

from collections.abc import Collection

import numpy as np

from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.anatomy import Anatomy
from datamodules.phantom.fields import Field, Grid, layered_noise
from errors import InputError

PIECES = (
    "bright_white",  # white matter that is diffusely bright on FLAIR
    "shading",  # drift of the signal along the axes
    "low_noise",
    "sites",  # lesions below the tentorium, and foci far apart
    "vessels",  # wide vessels and choroid plexus
)

BRIGHT_WHITE = (0.03, 0.08)  # log, mean and sd of a diffuse change of white matter; negative: none
BRIGHT_WHITE_SHARE = {"t1": -0.3, "t1ce": -0.3, "t2": 0.6, "flair": 1.0}
SHADED = 0.8  # share of patients
SHADING = (0.05, 0.12, 0.16)  # log sd from the centre to the edge along x, y, z, and of its fall
SHARED = 0.6  # correlation, squared: of what the modalities of one patient have in common
LOW_NOISE, NOISE_FACTOR = 0.7, (0.3, 0.8)  # share of images, factor
HALF_BRAIN_MM = (68.0, 86.0, 66.0)


class Pieces:
    """The pieces of one patient, each with a random stream of its own.

    Args:
        seed: the cohort's seed.
        index: the patient's number, from 0.
        taken: pieces that it has.
    """

    def __init__(self, seed: int, index: int, taken: Collection[str] = PIECES) -> None:
        self._key = (seed, index)
        self._taken = frozenset(taken)

    def stream(self, piece: str) -> np.random.Generator | None:
        """Return the random stream of a piece; None where it is left out."""
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


def log_bright_white(pieces: Pieces, brain: Anatomy, grid: Grid) -> dict[str, Field]:
    """Return the logarithm of the factor on healthy signal of each modality, to broadcast."""
    rng = pieces.stream("bright_white")
    if rng is None:
        return _nothing()
    amount = np.float32(max(0.0, rng.normal(*BRIGHT_WHITE)))
    place = np.clip(0.7 + 0.5 * layered_noise(rng, grid, (60.0, 25.0)), 0, 2) * brain.white
    return {m: amount * np.float32(share) * place for m, share in BRIGHT_WHITE_SHARE.items()}


def log_shading(pieces: Pieces, grid: Grid) -> dict[str, Field]:
    """Return the logarithm of a drift along the axes for each modality, to broadcast.

    It falls off from the centre, as the sensitivity of a coil does, and leans to one side.
    """
    rng = pieces.happens("shading", SHADED)
    if rng is None:
        return _nothing()
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


def _nothing() -> dict[str, Field]:
    return {modality: np.zeros((1, 1, 1), np.float32) for modality in MODALITIES}
