"""Learning curves by epoch: of one run, and of several systems side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.layouts.conventions import REGIONS
from evaluation.figures import box_plots
from evaluation.figures.overlay import COLOURS, FAINT, INK, PAPER, WARNING, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_curves_png(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Write the training loss and the validation Dice of every region by epoch as a PNG.

    Args:
        rows: rows of ``metrics.csv``, each with ``epoch``.
        path: the file, written under a temporary name and renamed.
        title: above the curves.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.2), dpi=120, facecolor=PAPER, layout="constrained")
    loss, score = figure.subplots(1, 2)
    for name, colour in (("train/loss", INK), ("val/loss", WARNING)):
        _curve(loss, rows, name, colour, label=name)
    drawn = [region for region in REGIONS if any(f"val/dice/{region}" in row for row in rows)]
    for region in drawn:
        _curve(score, rows, f"val/dice/{region}", COLOURS[region], f"{region} dice")
    epochs, means = _curve(score, rows, "val/dice/mean", INK, "mean", linewidth=2.2)
    if epochs:
        best = int(np.argmax(means))
        score.plot(epochs[best], means[best], "o", color=INK, markersize=7)
        score.set_title(
            f"validation Dice, best mean {means[best]:.3f} in epoch {epochs[best]:g}", color=INK
        )
    if drawn:
        score.set_ylim(0, 1)
    else:  # pretraining has no regions
        score.set_visible(False)
    loss.set_title("loss", color=INK)
    for axes in (loss, score):
        darken(axes)
        axes.set_xlabel("epoch", color=FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=INK)
    figure.suptitle(title, color=INK, fontsize=13)
    save_png(figure, path)


def systems_curves_png(
    systems: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path
) -> None:
    """Write the validation Dice of every region by epoch, a line a run, a colour a system.

    Args:
        systems: name to the rows of ``metrics.csv`` of each of its runs.
        path: the file, written under a temporary name and renamed.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    every = [row for runs in systems.values() for rows in runs for row in rows]
    names = [f"val/dice/{region}" for region in REGIONS]
    names = ["train/loss", *(name for name in names if any(name in row for row in every))]
    figure = Figure(
        figsize=(max(7.5, 3.1 * len(names)), 3.6),
        dpi=130,
        facecolor=box_plots.PAPER,
        layout="constrained",
    )
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for place, runs in enumerate(systems.values()):
            for rows in runs:
                _curve(axes, rows, name, box_plots.colour_of(place), "")
        axes.set_title(
            "training loss" if name == "train/loss" else f"validation Dice, {name[9:]}",
            color=box_plots.INK,
            fontsize=10,
        )
        if name != "train/loss":
            axes.set_ylim(0, 1)
        box_plots.plain_axes(axes)
        axes.set_xlabel("epoch", color=box_plots.FAINT, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = [
        Line2D([], [], color=box_plots.colour_of(place), linewidth=2, label=name)
        for place, (name, runs) in enumerate(systems.items())
        if any(runs)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(6, len(handles)),
        frameon=False,
        fontsize=8,
        labelcolor=box_plots.INK,
    )
    save_png(figure, path)


def _curve(
    axes: "Axes",
    rows: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
    label: str,
    linewidth: float = 1.5,
) -> tuple[list[float], list[float]]:
    """Plot one column over the epochs that have it, counted from 1; return both."""
    found = [row for row in rows if row.get(name) is not None]
    points = [(float(row["epoch"]) + 1, float(row[name])) for row in found]
    epochs, values = [x for x, _ in points], [y for _, y in points]
    if points:
        marker = "." if len(points) < 40 else ""
        axes.plot(epochs, values, color=colour, label=label, linewidth=linewidth, marker=marker)
    return epochs, values


def darken(axes: "Axes") -> None:
    """Give axes the common look: light on dark, a faint grid, no box."""
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=FAINT)
    axes.grid(color="#2a2e34", linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#3a3f46")
