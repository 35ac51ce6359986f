"""The learning curves of a run: training loss and validation Dice by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.layouts import REGIONS
from evaluation.figures import COLOURS, FAINT, INK, PAPER, WARNING, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_curves_png(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Write the training loss and the validation Dice of every region by epoch as a PNG.

    Args:
        rows: of ``metrics.csv``, each with ``epoch``.
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


def _curve(
    axes: "Axes",
    rows: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
    label: str,
    linewidth: float = 1.5,
) -> tuple[list[float], list[float]]:
    """Plot one column over the epochs that have it; return both."""
    points = [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name) is not None]
    epochs, values = [x for x, _ in points], [y for _, y in points]
    if points:
        marker = "." if len(points) < 40 else ""
        axes.plot(epochs, values, color=colour, label=label, linewidth=linewidth, marker=marker)
    return epochs, values


def darken(axes: "Axes") -> None:
    """Give axes the look of the house: light on dark, a faint grid, no box."""
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=FAINT)
    axes.grid(color="#2a2e34", linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#3a3f46")
