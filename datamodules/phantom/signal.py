"""From tissue to signal: four MRI sequences, their contrast between patients, their scanners.

A voxel's signal is the sum of its tissues' signals, weighted by their fractions (partial volume).
Each tissue has T1, T2 and proton density; each sequence its signal equation with times drawn
inside the range used in practice (Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004).
"""

from dataclasses import dataclass

import numpy as np

from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.anatomy import Anatomy
from datamodules.phantom.confounders import draw_confounders
from datamodules.phantom.fields import Field, Grid, layered_noise, sigmoid
from datamodules.phantom.lesion import Lesion
from datamodules.phantom.variety import Pieces, log_bright_white, log_shading


@dataclass(frozen=True)
class Tissue:
    """Relaxation of one tissue and how much it varies between patients."""

    t1: float  # ms
    t2: float  # ms
    density: float  # protons, relative to water
    t1_spread: float  # log standard deviation
    t2_spread: float
    uptake: tuple[float, float]  # added to 1/T1 by contrast agent, 1/s


# Brain and fluid: Stanisz et al., 2005 (doi:10.1002/mrm.20605) and Wansapura et al., 1999
# (doi:10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L), between 1.5 T and 3 T. Tumour
# and oedema: Just and Thelen, 1988 (doi:10.1148/radiology.169.3.3187000), then moved so that the
# z-scores of the simulated compartments lie in the ranges measured on nine real patients.
TISSUES = {
    "white": Tissue(850, 74, 0.71, 0.06, 0.05, (0.01, 0.06)),
    "grey": Tissue(1350, 95, 0.82, 0.06, 0.05, (0.04, 0.16)),
    "csf": Tissue(3800, 900, 1.00, 0.07, 0.25, (0.00, 0.02)),
    "oedema": Tissue(1330, 152, 0.87, 0.08, 0.08, (0.00, 0.02)),
    "solid": Tissue(1450, 180, 0.88, 0.13, 0.15, (0.00, 0.10)),
    "fluid": Tissue(2800, 600, 0.98, 0.15, 0.30, (0.00, 0.05)),
    "enhancing": Tissue(1150, 152, 0.85, 0.12, 0.11, (0.30, 1.20)),
    "haemorrhage": Tissue(650, 80, 0.85, 0.25, 0.40, (0.00, 0.05)),
    "gliosis": Tissue(1250, 125, 0.84, 0.12, 0.15, (0.00, 0.03)),
    "blood": Tissue(1700, 60, 0.45, 0.20, 0.30, (1.50, 7.00)),
    "choroid": Tissue(1500, 130, 0.85, 0.15, 0.20, (0.40, 1.80)),
    "dura": Tissue(1000, 60, 0.60, 0.20, 0.20, (0.20, 1.80)),
    "fat": Tissue(380, 80, 0.95, 0.10, 0.20, (0.00, 0.02)),
}


def mix_tissues(
    rng: np.random.Generator, brain: Anatomy, lesion: Lesion, grid: Grid, pieces: Pieces
) -> dict[str, Field]:
    """Fractions of every tissue in every voxel; they sum to 1."""
    tumour = {
        "oedema": lesion.oedema,
        "solid": lesion.solid,
        "fluid": lesion.fluid,
        "enhancing": lesion.enhancing,
    }
    taken = sum(tumour.values(), np.zeros(grid.shape, np.float32))
    excess = np.maximum(taken, 1)
    tumour = {name: part / excess for name, part in tumour.items()}
    free = 1 - np.minimum(taken, 1)
    tumour["haemorrhage"] = np.zeros(grid.shape, np.float32)
    if rng.random() < 0.25:  # bleeding into the core
        clot = sigmoid((layered_noise(rng, grid, (14.0, 6.0)) - rng.uniform(0.6, 2.0)) * 4)
        for name in ("solid", "fluid"):
            tumour["haemorrhage"] += clot * tumour[name]
            tumour[name] = tumour[name] * (1 - clot)
    found = draw_confounders(rng, brain, grid, pieces)
    others = {name: part * free for name, part in found.items()}
    left = free - sum(others.values(), np.zeros(grid.shape, np.float32))
    healthy = {"white": brain.white * left, "grey": brain.grey * left, "csf": brain.fluid * left}
    return healthy | tumour | others


def _sequences(rng: np.random.Generator, csf_t1: float) -> dict[str, dict[str, float]]:
    """Times (ms) of the four sequences of one examination."""
    t1_kind = float(rng.random() < 0.5)
    return {
        "t1": {"gradient": t1_kind, "tr": rng.uniform(450, 800), "ti": rng.uniform(950, 1250)},
        "t1ce": {
            "gradient": t1_kind if rng.random() < 0.5 else float(rng.random() < 0.6),
            "tr": rng.uniform(450, 800),
            "ti": rng.uniform(950, 1250),
        },
        "t2": {"tr": rng.uniform(3000, 6500), "te": rng.uniform(80, 115)},
        "flair": {
            "tr": (tr := rng.uniform(7000, 11000)),
            "te": rng.uniform(90, 140),
            # the inversion time that nulls fluid, missed by a few per cent
            "ti": csf_t1 * np.log(2 / (1 + np.exp(-tr / csf_t1))) * rng.uniform(0.92, 1.03),
        },
    }


def _signal(modality: str, times: dict[str, float], t1: float, t2: float, density: float) -> float:
    """Signal equation of one sequence."""
    if modality in ("t1", "t1ce"):
        if times["gradient"]:  # magnetisation-prepared gradient echo, recovery after inversion
            recovery = abs(1 - 2 * np.exp(-times["ti"] / t1) + np.exp(-2300 / t1))
            return float(density * recovery * np.exp(-4 / t2))
        return float(density * (1 - np.exp(-times["tr"] / t1)) * np.exp(-12 / t2))
    if modality == "t2":
        return float(density * (1 - np.exp(-times["tr"] / t1)) * np.exp(-times["te"] / t2))
    recovery = abs(1 - 2 * np.exp(-times["ti"] / t1) + np.exp(-times["tr"] / t1))
    return float(density * recovery * np.exp(-times["te"] / t2))


def simulate_signals(
    rng: np.random.Generator, brain: Anatomy, lesion: Lesion, grid: Grid, pieces: Pieces
) -> dict[str, Field]:
    """Noise-free signals of the four modalities (white matter about 1), background 0."""
    fractions = mix_tissues(rng, brain, lesion, grid, pieces)
    healthy = fractions["white"] + fractions["grey"] + fractions["csf"]
    contrast, shading = log_bright_white(pieces, brain, grid), log_shading(pieces, grid)
    t1 = {name: t.t1 * np.exp(t.t1_spread * rng.normal()) for name, t in TISSUES.items()}
    t2 = {name: t.t2 * np.exp(t.t2_spread * rng.normal()) for name, t in TISSUES.items()}
    uptake = {name: rng.uniform(*t.uptake) for name, t in TISSUES.items()}
    sequences = _sequences(rng, t1["csf"])
    # Texture: water content varies inside a lesion and, less, between regions of healthy brain;
    # more water is brighter on T2 and FLAIR and darker on T1.
    rough = np.float32(rng.uniform(0.05, 0.16)) * layered_noise(rng, grid, (11.0, 5.0))
    rough *= 1 - healthy
    calm = np.float32(rng.uniform(0.01, 0.04)) * layered_noise(rng, grid, (30.0, 8.0))
    water = rough + calm * (fractions["white"] + fractions["grey"])
    images = {}
    for modality in MODALITIES:
        image = np.zeros(grid.shape, np.float32)
        for name, tissue in TISSUES.items():
            t1_now = t1[name]
            if modality == "t1ce":
                t1_now = 1000 / (1000 / t1_now + uptake[name])
            value = _signal(modality, sequences[modality], t1_now, t2[name], tissue.density)
            spread = 0.03 if name in ("white", "grey", "csf") else 0.05
            image += np.float32(value * np.exp(spread * rng.normal())) * fractions[name]
        if modality == "flair":  # unsuppressed fluid that flows
            flow = np.clip(layered_noise(rng, grid, (25.0, 10.0)) - rng.uniform(0.8, 3.0), 0, 1)
            image += np.float32(rng.uniform(0.02, 0.12)) * flow * fractions["csf"]
            cortex = np.float32(rng.uniform(0, 0.12)) * layered_noise(rng, grid, (30.0, 12.0))
            image *= 1 + cortex * fractions["grey"]  # limbic and primary cortex differ
        change = water if modality in ("t2", "flair") else -0.5 * water
        image *= np.exp(change + healthy * contrast[modality] + shading[modality])
        white = _signal(
            modality, sequences[modality], t1["white"], t2["white"], TISSUES["white"].density
        )
        images[modality] = image / np.float32(white) * brain.mask
    return images
