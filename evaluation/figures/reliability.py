"""The reliability diagram: how often a voxel with a given probability is tumour, by region."""

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from evaluation.figures.box_plots import FAINT, INK, PAPER, colour_of, plain_axes
from evaluation.figures.overlay import REGION_NAMES, save_png
from evaluation.metrics.calibration import DOMAIN_FROM, EDGES, Reliability
from evaluation.metrics.means import counted, nan_mean
from evaluation.tables.per_case import write_csv
from evaluation.tables.provenance import Provenance
from evaluation.tables.systems import BenchmarkTable, Cell, Column
from outputs import Outputs

CALIBRATION = ("calibration.csv", "reliability.png")
MOST_TICKS = 4  # of the counts, beside 0


def reliability_png(reliabilities: Mapping[str, Reliability], path: Path, title: str = "") -> None:
    """Write one panel a region as a PNG: observed share against probability, and voxels a bin.

    A point is a bin at its mean probability; below the diagonal the network is too sure.

    Args:
        reliabilities: region to counts, of all patients together.
        path: the file, written under a temporary name and renamed.
        title: above the panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(
        figsize=(3.9 * len(reliabilities), 5.2), dpi=120, facecolor=PAPER, layout="constrained"
    )
    panels = figure.subplots(
        2, len(reliabilities), squeeze=False, sharex=True, height_ratios=(3, 1)
    )
    for place, (region, counts) in enumerate(reliabilities.items()):
        (curve, bars), colour = panels[:, place], colour_of(place)
        voxels = counts.voxels[1:]
        filled = voxels > 0
        expected = counts.probability[1:][filled] / voxels[filled]
        observed = counts.present[1:][filled] / voxels[filled]
        curve.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        curve.vlines(
            expected, np.minimum(expected, observed), np.maximum(expected, observed), FAINT
        )
        look = {"color": colour, "marker": "o", "markersize": 5, "linewidth": 1.8}
        curve.plot(expected, observed, clip_on=False, **look)  # whole points at 0 and 1
        error = "no voxel" if np.isnan(counts.ece) else f"ECE {counts.ece:.3f}"
        curve.set_title(f"{REGION_NAMES.get(region, region)}, {error}", color=INK, fontsize=11)
        curve.set_ylim(0, 1)
        curve.set_xlim(0, 1)
        bars.bar(EDGES[1:-1], voxels, np.diff(EDGES[1:]), align="edge", color=colour, alpha=0.75)
        most = max(1, int(voxels.max()))
        bars.set_yscale("symlog", linthresh=1)
        bars.set_ylim(0, 3 * most)
        bars.set_yticks(_count_ticks(most))
        bars.yaxis.set_minor_locator(NullLocator())
        bars.set_xlabel("predicted probability", color=FAINT)
        for axes in (curve, bars):
            plain_axes(axes)
    panels[0, 0].set_ylabel("share that is tumour", color=FAINT)
    panels[1, 0].set_ylabel("voxels", color=FAINT)
    domain = f"voxels with a probability of at least {DOMAIN_FROM:.0%}"
    comma = ", " if len(reliabilities) > 1 else ",\n"  # one panel is narrow
    figure.suptitle(f"{title}{comma}{domain}" if title else domain, color=INK, fontsize=12)
    save_png(figure, path)


def _count_ticks(most: int) -> list[int]:
    """Return 0 and powers of ten up to the largest count, evenly apart; 1 would lie on the 0."""
    highest = int(math.log10(most))
    step = -(-highest // MOST_TICKS) or 1
    return [0, *(10**power for power in range(highest, 0, -step)[::-1])]


def write_calibration(
    patients: Mapping[str, Mapping[str, Reliability]], outputs: Outputs, title: str
) -> list[str]:
    """Write ``calibration.csv`` and ``reliability.png``; return a summary as lines.

    The table has a row a patient, region and bin: counts, so that any selection of patients adds
    up (``Reliability.from_rows``).

    Args:
        patients: case id to region to counts; all have the same regions.
        outputs: the folder where the files go.
        title: above the diagram.
    """
    rows = [
        {"case_id": case_id, "region": region, **row}
        for case_id, counts in patients.items()
        for region, count in counts.items()
        for row in count.rows()
    ]
    outputs.settle(CALIBRATION[0], lambda file: write_csv(rows, file))
    regions = next(iter(patients.values()))
    pooled = {region: reduce(add, (own[region] for own in patients.values())) for region in regions}
    number = f"{len(patients)} case{'' if len(patients) == 1 else 's'}"
    above = f"{title}, {number}"
    outputs.settle(CALIBRATION[1], lambda file: reliability_png(pooled, file, above))
    lines = [
        "Calibration  calibration.csv and reliability.png, beside per_case.csv",
        f"Expected calibration error over voxels with a probability of at least {DOMAIN_FROM:.0%}, "
        "and the share",
        "of the region that was overlooked, with a smaller one:",
    ]
    for region, counts in pooled.items():
        errors = [own[region].ece for own in patients.values()]
        lines.append(
            f"  {region}  {counts.ece:.4f} over all voxels, {nan_mean(errors):.4f} as the mean of "
            f"{len(counted(errors))} cases; {counts.overlooked:.1%} overlooked"
        )
    return lines


def calibration_table(
    systems: Mapping[str, Mapping[str, Reliability]],
    *,
    provenance: Provenance | None = None,
    patients: int = 0,
) -> BenchmarkTable:
    """Return the expected calibration error of every system and region, over all voxels.

    Args:
        systems: name to region to counts, of all patients together.
        provenance: for the footnotes.
        patients: number of patients, for the footnotes.
    """
    regions = list(dict.fromkeys(region for counts in systems.values() for region in counts))
    columns = [
        Column(f"{key}/{region}", header, region, decimals)
        for region in regions
        for key, header, decimals in (("ece", "ECE ↓", 4), ("overlooked", "overlooked ↓", 3))
    ]
    rows = [
        (
            name,
            [
                Cell(value)
                for region in regions
                for value in (
                    (counts[region].ece, counts[region].overlooked)
                    if region in counts
                    else (None, None)
                )
            ],
        )
        for name, counts in systems.items()
    ]
    notes = [
        *(provenance.sentences(patients) if provenance else []),
        f"ECE: expected calibration error over voxels with a probability of at least "
        f"{DOMAIN_FROM:.0%}; overlooked: share of the region's voxels with a smaller one",
    ]
    return BenchmarkTable("Expected calibration error", columns, rows, notes, key="calibration")
