"""Systems side by side as a picture: box plots of patients, and each patient's gain or loss."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.figures.overlay import save_png
from evaluation.statistics.columns import ScoreColumn
from evaluation.statistics.comparison import Comparison, Systems, compare, patient_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scores = Mapping[str, Mapping[str, float]]

# Okabe and Ito's, distinct with any colour vision; on white, because these go into papers.
SYSTEM_COLOURS = (
    *("#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#7a5c00"),
    *("#6a3d9a", "#444444", "#882255", "#999933", "#332288"),
)
BETTER, WORSE, EQUAL = "#009e73", "#d55e00", "#9aa0a6"
INK, FAINT, GRID, PAPER = "#1d2126", "#5d6670", "#e4e7ea", "#ffffff"
FAR, WIDE = 60.0, 10.0  # mm or ml, and highest to lowest, above which an axis is logarithmic
LINE_ALPHA = 0.6  # up to FEW lines; more of them are fainter
FEW = 40
GOLDEN = (math.sqrt(5) - 1) / 2


def comparison_png(
    systems: Systems,
    columns: Sequence[ScoreColumn],
    reference: str,
    path: Path,
    title: str = "",
    family: Sequence[ScoreColumn] = (),
) -> None:
    """Write box plots with the patients as points, and below lines between their paired scores.

    Args:
        systems: name to the rows of ``per_case.csv``, of the same patients; one alone has no pairs.
        columns: the scores; a metric is two rows of panels, a region a column of panels.
        reference: name of the system the others are paired with.
        path: the file, written under a temporary name and renamed.
        title: above the panels.
        family: scores that are corrected together, where the picture shows only some of them;
            unset: those it shows.
    """
    from matplotlib.figure import Figure

    found = compare(systems, family or columns, reference)
    families = list(dict.fromkeys(column.family for column in columns))
    strips = [[column for column in columns if column.family == family] for family in families]
    one_region = all(len(strip) == 1 for strip in strips)
    if one_region:  # its metrics side by side
        scopes = dict.fromkeys(column.scope for column in columns)
        strips = [[column for column in columns if column.scope == scope] for scope in scopes]
    across = max(map(len, strips))
    panel = 1.3 + 0.75 * max(len(systems), 2)
    height = 2 if len(systems) > 1 else 1  # rows of panels a strip
    figure = Figure(
        figsize=(max(6.0, 0.6 + across * panel), 0.9 + 2.8 * height * len(strips)),
        dpi=130,
        facecolor=PAPER,
        layout="constrained",
    )
    grid = figure.subplots(height * len(strips), across, squeeze=False)
    for row, strip in enumerate(strips):
        for empty in grid[height * row : height * (row + 1), len(strip) :].flat:
            empty.set_visible(False)
        for place, column in enumerate(strip):
            boxes = grid[height * row, place]
            scores = {name: patient_scores(rows, column) for name, rows in systems.items()}
            against = {item.system: item for item in found if item.column.key == column.key}
            _style(boxes, column, scores, f"{column.region}, {column.scope}")
            _boxes(boxes, scores)
            if place == 0 or one_region:
                boxes.set_ylabel(column.measure.heading, color=INK)
            if height == 1:
                continue
            pairs = grid[height * row + 1, place]
            _style(pairs, column, scores, "")
            _pairs(pairs, scores, reference, against, column.measure.higher)
            if place == 0 or one_region:
                pairs.set_ylabel(f"{column.measure.heading}\nagainst {reference}", color=INK)
    _legend(figure, paired=height > 1)
    figure.suptitle(title, color=INK, fontsize=12, fontweight="bold")
    save_png(figure, path)


def _style(axes: "Axes", column: ScoreColumn, scores: Scores, title: str) -> None:
    values = [v for found in scores.values() for v in found.values() if math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    # At least a thousandth, so that values that differ by rounding alone look equal.
    margin = max(0.06 * (high - low), 0.001 * abs(high)) or 0.05
    if not column.measure.unit:
        edge = 0.03 * (high - low + 2 * margin)
        axes.set_ylim(max(-edge, low - margin), min(1 + edge, high + margin))
    elif high > FAR and high > WIDE * max(low, 1.0):
        from matplotlib.ticker import FuncFormatter, NullLocator

        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(max(-0.1, 0.8 * low - 0.1), 1.3 * high)
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if 0.8 * low <= t <= 1.3 * high]
        axes.set_yticks(ticks)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(max(-0.03 * (high - low + margin), low - margin), high + margin)
    axes.set_title(title, color=INK, fontsize=10)
    plain_axes(axes)


def plain_axes(axes: "Axes") -> None:
    """Reduce the frame to ticks, horizontal lines and the left edge."""
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(GRID)


def _boxes(axes: "Axes", scores: Scores) -> None:
    for place, found in enumerate(scores.values()):
        values = np.array([value for value in found.values() if math.isfinite(value)])
        if not values.size:
            continue
        colour = colour_of(place)
        axes.boxplot(
            values,
            positions=[place],
            widths=0.62,
            showfliers=False,  # every patient is a point already
            patch_artist=True,
            boxprops={"facecolor": f"{colour}2e", "edgecolor": colour, "linewidth": 1.2},
            medianprops={"color": colour, "linewidth": 2.2},
            whiskerprops={"color": colour, "linewidth": 1.0},
            capprops={"visible": False},
            zorder=2,
        )
        jitter = (GOLDEN * np.arange(values.size)) % 1 - 0.5  # even, and the same every time
        size = float(np.clip(500 / values.size, 6, 22))
        axes.scatter(
            place + 0.42 * jitter,
            values,
            s=size,
            color=colour,
            alpha=0.75,
            linewidths=0.4,
            edgecolors=PAPER,
            zorder=3,
        )
        mean = float(values.mean())
        axes.plot(place, mean, "D", color=PAPER, markeredgecolor=INK, markersize=5, zorder=4)
    _name_places(axes, list(scores))


def _pairs(
    axes: "Axes",
    scores: Scores,
    reference: str,
    against: Mapping[str, Comparison],
    higher: bool,
) -> None:
    """Draw a line from every patient's score of the reference to that of each other system."""
    from matplotlib.collections import LineCollection

    names = list(scores)
    others = [name for name in names if name != reference]
    for place, name in enumerate(others):
        ends = place - 0.3, place + 0.3
        pairs = np.array(
            [
                (before, scores[name].get(patient, math.nan))
                for patient, before in scores[reference].items()
            ]
        )
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        gains = (pairs[:, 1] - pairs[:, 0]) * (1 if higher else -1)
        alpha = LINE_ALPHA * min(1.0, math.sqrt(FEW / max(1, len(pairs))))
        lines = [[(ends[0], before), (ends[1], after)] for before, after in pairs]
        colours = [BETTER if gain > 0 else WORSE if gain < 0 else EQUAL for gain in gains]
        axes.add_collection(
            LineCollection(lines, colors=colours, linewidths=0.9, alpha=alpha, zorder=2)
        )
        for side, system in enumerate((reference, name)):
            axes.scatter(
                np.full(len(pairs), ends[side]),
                pairs[:, side],
                s=9,
                color=colour_of(names.index(system)),
                alpha=0.85,
                linewidths=0,
                zorder=3,
            )
        item = against.get(name)
        if item is not None and item.n:
            axes.annotate(
                f"p {_p(item.p_holm)}\neffect {round(item.effect, 2) + 0.0:+.2f}",
                (place, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                color=INK if item.significant else FAINT,
                fontweight="bold" if item.significant else "normal",
            )
    if len(others) == 1:  # room for both names
        axes.set_xticks([-0.3, 0.3], [reference, others[0]], color=INK, fontsize=8)
        axes.set_xlim(-0.6, 0.6)
    else:
        _name_places(axes, others)


def _name_places(axes: "Axes", names: Sequence[str]) -> None:
    crowded = max(map(len, names), default=0) > 9
    turned: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, color=INK, fontsize=8, **(turned if crowded else {}))
    axes.set_xlim(-0.6, len(names) - 0.4)


def _legend(figure: "Figure", *, paired: bool) -> None:
    from matplotlib.lines import Line2D

    labels = ((BETTER, "better"), (WORSE, "worse"), (EQUAL, "equal")) if paired else ()
    handles = [Line2D([], [], color=colour, linewidth=2, label=label) for colour, label in labels]
    meaning = (
        "a line joins its two scores;\n"
        "p after Holm over these systems and all compared regions of the metric, bold below 0.05"
    )
    mean = Line2D([], [], color=PAPER, marker="D", markeredgecolor=INK, linestyle="", label="mean")
    handles.append(mean)
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        title="a point is a patient" + (f", {meaning}" if paired else ""),
        title_fontproperties={"size": 8},
    )
    legend.get_title().set_multialignment("center")


def colour_of(place: int) -> str:
    """Return the colour of the system at a place among the others."""
    return SYSTEM_COLOURS[place % len(SYSTEM_COLOURS)]


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"
