"""Scores by the number of patients that were trained on: a line a system, a panel a region."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.figures.box_plots import FAINT, INK, PAPER, colour_of, plain_axes
from evaluation.figures.overlay import save_png
from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import Row, patient_scores, summarise

FAR = 4  # largest number to smallest, above which the axis of numbers is logarithmic
SEED = "seed"  # column of the rows
OVER_PATIENTS = "bands: 95% interval of the mean over the tested patients"
OVER_SEEDS = "bands: lowest and highest mean over the tested patients among {} seeds"


@dataclass(frozen=True)
class TrainedOn:
    """A point of a line: a number of patients trained on, and the scores reached with it.

    Args:
        line: name of the line.
        patients: number of patients trained on.
        rows: rows of ``per_case.csv`` over all folds and seeds, with the seed of each; a patient's
            seeds are averaged.
    """

    line: str
    patients: int
    rows: Sequence[Row]


def patient_number_png(
    points: Sequence[TrainedOn], columns: Sequence[ScoreColumn], path: Path, title: str = ""
) -> None:
    """Write the mean score by the number of patients trained on, with bands, as a PNG.

    Of several seeds the band is from the lowest to the highest mean of a seed, else the bootstrap
    interval of the mean over tested patients; of one patient there is none.

    Args:
        points: the points of all lines; a line is drawn from few patients to many.
        columns: the scores, a panel each.
        path: the file, written under a temporary name and renamed.
        title: above the panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(
        figsize=(max(6.0, 3.4 * len(columns)), 3.9), dpi=130, facecolor=PAPER, layout="constrained"
    )
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    lines = list(dict.fromkeys(point.line for point in points))
    numbers = sorted({point.patients for point in points})
    seeds = _seeds(points)
    for axes, column in zip(panels, columns, strict=True):
        for place, name in enumerate(lines):
            found = _line([point for point in points if point.line == name], column, seeds)
            colour = colour_of(place)
            axes.plot(found[:, 0], found[:, 1], color=colour, marker="o", markersize=4, label=name)
            axes.fill_between(found[:, 0], found[:, 2], found[:, 3], color=colour, alpha=0.13)
        axes.set_title(f"{column.region}, {column.scope}", color=INK, fontsize=10)
        plain_axes(axes)
        if 0 < numbers[0] < numbers[-1] / FAR:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(numbers, labels=[str(number) for number in numbers])
        axes.set_xlabel("patients trained on", color=FAINT, fontsize=8)
        if not column.measure.unit:
            axes.set_ylim(0, 1)
    panels[0].set_ylabel(columns[0].measure.heading, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        title=band_of(points),
        loc="outside lower center",
        ncols=min(4, len(lines)),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        labelcolor=INK,
    )
    legend.get_title().set_color(FAINT)
    figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    save_png(figure, path)


def band_of(points: Sequence[TrainedOn]) -> str:
    """Return what the bands of a curve show, in words."""
    seeds = _seeds(points)
    return OVER_SEEDS.format(len(seeds)) if len(seeds) > 1 else OVER_PATIENTS


def _seeds(points: Sequence[TrainedOn]) -> list[Any]:
    """Return the seeds of all points."""
    return list(dict.fromkeys(row.get(SEED) for point in points for row in point.rows))


def _line(points: Sequence[TrainedOn], column: ScoreColumn, seeds: Sequence[Any]) -> np.ndarray:
    """Return number of patients, mean, and the band's two ends, a point a row (K, 4)."""
    found = []
    for point in sorted(points, key=lambda one: one.patients):
        summary = summarise(patient_scores(point.rows, column))
        low, high = summary.low, summary.high
        if len(seeds) > 1:
            by_seed = [[row for row in point.rows if row.get(SEED) == seed] for seed in seeds]
            means = [summarise(patient_scores(rows, column)).mean for rows in by_seed if rows]
            low, high = float(np.nanmin(means)), float(np.nanmax(means))
        found.append((point.patients, summary.mean, low, high))
    return np.array(found)
