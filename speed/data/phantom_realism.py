"""Phantoms beside real patients, region by region: a table and a figure.

    python -m speed.data.phantom_realism --real DIR [--real DIR ...] [--patients 40]

Every image is resampled to 2 mm. Values are z-scores against the patient's own upper brain outside
the tumour: without the lesion, the surface and the skull base, which differ most. A statistic of
phantoms is useful where the real patients lie inside the range of the phantoms.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.ndimage as ndi

from datamodules.cases.cache import default_cache, prepare_cohort
from datamodules.cases.case import PreparedCase
from datamodules.layouts.case_files import MODALITIES
from datamodules.patients.find import find_cases
from datamodules.phantom.simulation import PHANTOM_VERSION, generate_cohort
from speed.record import write_record
from studies.settings.command_line import ROOT

mpl.use("Agg")
SPACING = 2.0  # mm
SEED = 4242  # of phantoms that no experiment trains on
LEAST_VOXELS = 30


def statistics(case: PreparedCase) -> dict[str, float]:
    """Return the statistics of one labelled patient by name."""
    image = np.asarray(case.image, np.float32)
    label = np.asarray(case.label)
    brain = np.any(image != 0, axis=0)
    depth = ndi.distance_transform_edt(brain, SPACING)
    x, y, z = (
        g.astype(np.float32) / (n - 1)
        for g, n in zip(np.indices(brain.shape), brain.shape, strict=True)
    )  # the prepared box is that of the brain; axes go right, to the front, up
    clean = brain & ~ndi.binary_dilation(label > 0, iterations=3)
    deep = clean & (depth > 8)
    upper = deep & (z > 0.5) & (z < 0.9)
    side = np.abs(x - 0.5)
    regions = {
        "cerebellum": deep & (z < 0.27) & (y < 0.38),
        "temporal pole": clean & (depth > 4) & (z < 0.38) & (y > 0.55) & (side > 0.2),
        "deep grey": deep & (z > 0.38) & (z < 0.55) & (y > 0.42) & (y < 0.65) & (side < 0.2),
        "frontal": deep & (y > 0.75) & (z > 0.45),
        "occipital": deep & (y < 0.2) & (z > 0.3),
        "top": clean & (z > 0.92),
        "surface": clean & (depth <= 4),
        "oedema": label == 2,
        "core without enhancement": label == 1,
        "enhancing": label == 3,
    }
    found: dict[str, float] = {}
    for modality, values in zip(MODALITIES, image, strict=True):
        if modality in case.missing:
            continue
        mean, spread = values[upper].mean(), values[upper].std()
        scores = (values - mean) / max(float(spread), 1e-6)
        for name, region in regions.items():
            if region.sum() >= LEAST_VOXELS:
                found[f"{modality} {name}"] = float(scores[region].mean())
        fine = scores - ndi.uniform_filter(scores, 3)
        found[f"{modality} fine variation"] = float(fine[upper].std())
        found[f"{modality} skewness"] = float((scores[upper] ** 3).mean())
        if modality == "flair":
            found["flair frontal, 95th percentile"] = float(
                np.percentile(scores[regions["frontal"]], 95)
            )
            found["Dice of the best threshold on flair"] = _best_threshold(scores, label, brain)
    voxel_ml = SPACING**3 / 1000
    found["brain ml"] = float(brain.sum() * voxel_ml)
    for region, mask in (
        ("WT", label > 0),
        ("TC", (label == 1) | (label == 3)),
        ("ET", label == 3),
    ):
        found[f"volume {region} ml"] = float(mask.sum() * voxel_ml)
    return found


def _best_threshold(scores: np.ndarray, label: np.ndarray, brain: np.ndarray) -> float:
    """Whole-tumour Dice of the threshold on smoothed FLAIR that suits this patient best."""
    smooth = ndi.gaussian_filter(scores, 1.0)[brain]
    tumour = label[brain] > 0
    order = np.argsort(smooth)[::-1]
    hits = np.cumsum(tumour[order])
    return float((2 * hits / (np.arange(1, len(hits) + 1) + tumour.sum())).max())


def collect(root: Path) -> dict[str, dict[str, float]]:
    """Return the statistics of every labelled patient below a folder."""
    cases, bad = prepare_cohort(find_cases(str(root)), default_cache(), SPACING, progress=False)
    if bad:
        raise SystemExit(f"cannot be used: {bad}")
    return {case.case_id: statistics(case) for case in cases if case.labelled}


def summary(values: list[float]) -> dict[str, float]:
    """Return mean, spread and the middle 90 % of some patients."""
    low, high = np.percentile(values, [5, 95])
    parts = {"mean": np.mean(values), "sd": np.std(values), "p5": low, "p95": high}
    return {name: round(float(value), 3) for name, value in parts.items()}


def draw(table: dict[str, Any], names: list[str], title: str, path: Path) -> None:
    """Draw the range of phantoms as a bar and every real patient as a dot, a statistic a row."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.24 * len(names) + 1.2))
    for row, name in enumerate(reversed(names)):
        phantom, real = table[name]["phantom"], table[name]["real"]
        axes.plot([phantom["p5"], phantom["p95"]], [row, row], color="0.75", linewidth=7)
        axes.plot(phantom["mean"], row, "|", color="0.3", markersize=10)
        axes.plot(list(real.values()), [row] * len(real), "o", color="#c44e52", markersize=4)
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(measure: Callable[[Path], dict[str, dict[str, float]]] = collect) -> None:
    """Measure both cohorts; write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, action="append", required=True)
    parser.add_argument("--patients", type=int, default=40, help="phantoms")
    parser.add_argument("--out", type=Path, default=ROOT / "speed/results/phantom_realism.json")
    given = parser.parse_args()
    real = {name: found for root in given.real for name, found in measure(root).items()}
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder) / "phantoms"
        generate_cohort(cohort, given.patients, seed=SEED, spacing=SPACING)
        phantoms = measure(cohort)
    table: dict[str, Any] = {}
    for name in next(iter(phantoms.values())):
        ours = [found[name] for found in phantoms.values() if name in found]
        theirs = {case: round(found[name], 3) for case, found in real.items() if name in found}
        if theirs:
            row = summary(ours)
            inside = [row["p5"] <= value <= row["p95"] for value in theirs.values()]
            share = round(float(np.mean(inside)), 2)
            table[name] = {"phantom": row, "real": theirs, "share_of_real_inside_p5_p95": share}
            mean = float(np.mean(list(theirs.values())))
            print(f"{name:38s} phantom {row['mean']:7.2f} +- {row['sd']:5.2f}   real {mean:7.2f}")
    content = {
        "phantom_version": PHANTOM_VERSION,
        "phantoms": len(phantoms),
        "real_patients": sorted(real),
        "statistics": table,
    }
    write_record(given.out, content)
    names = [name for name in table if not name.endswith("ml")]
    draw(
        table,
        names,
        "z-scores by region: phantoms (bar: middle 90 %), patients (dots)",
        given.out.with_suffix(".png"),
    )


if __name__ == "__main__":
    main()
