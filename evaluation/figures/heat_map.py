"""Heat map of ways of testing: a way of testing a row, a system a column, coloured by mean."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.figures.box_plots import FAINT, INK, PAPER
from evaluation.figures.overlay import save_png
from evaluation.tables.formats import STAR
from evaluation.tables.systems import BenchmarkTable, printed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCHES, COLUMN_INCHES, PANEL_GAP = 0.27, 0.62, 0.35
LIGHT, DARK = 0.12, 0.75  # part of the colour map on which numbers are readable
WHITE_INK_FROM = 0.65  # share of the colour map from which the number in it is white


def variants_png(table: BenchmarkTable, path: Path) -> None:
    """Write a table of ways of testing as coloured cells, a panel a group of columns.

    Colours run over the numbers of a panel: darker is larger, whether or not that is better. A
    cell without a number is left white.

    Args:
        table: a way of testing a row; its columns are grouped by score, a system each.
        path: the file, written under a temporary name and renamed.
    """
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(column.group for column in table.columns))
    members = {
        group: [place for place, column in enumerate(table.columns) if column.group == group]
        for group in groups
    }
    names = [name for name, _ in table.rows]
    widths = [COLUMN_INCHES * len(places) for places in members.values()]
    label = 0.3 + 0.075 * max(map(len, names))
    headers = 0.35 + 0.065 * max(len(column.header) for column in table.columns)
    figure = Figure(
        figsize=(
            max(6.0, label + sum(widths) + PANEL_GAP * len(widths)),
            0.7 + headers + ROW_INCHES * len(names),
        ),
        dpi=130,
        facecolor=PAPER,
        layout="constrained",
    )
    panels = figure.subplots(1, len(groups), squeeze=False, width_ratios=widths)[0]
    for panel, (group, places) in zip(panels, members.items(), strict=True):
        panel.set_title(group, color=INK, fontsize=9, fontweight="bold")
        _cells(panel, table, places)
        panel.set_yticks(range(len(names)), names if panel is panels[0] else [])
    figure.suptitle(table.title, color=INK, fontsize=11, fontweight="bold")
    save_png(figure, path)


def _cells(panel: "Axes", table: BenchmarkTable, places: list[int]) -> None:
    """Draw the numbers of some columns on their colours."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    cells = [[row[place] for place in places] for _, row in table.rows]
    values = np.array(
        [[math.nan if c.value is None else c.value for c in row] for row in cells], dtype=float
    )
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1.0
    used = colormaps["Blues"](np.linspace(LIGHT, DARK, 256))
    colours = ListedColormap(used).with_extremes(bad=PAPER)
    shown = np.where(np.isfinite(values), values, math.nan)
    panel.imshow(shown, aspect="auto", cmap=colours, vmin=low, vmax=high)
    for row, found in enumerate(cells):
        for place, cell in enumerate(found):
            if cell.value is None:
                continue
            share = (values[row, place] - low) / (high - low)
            panel.text(
                place,
                row,
                printed(cell.value, table.columns[places[place]].decimals)
                + (STAR if cell.unlike else ""),
                ha="center",
                va="center",
                fontsize=7.5,
                fontweight="bold" if cell.best else "normal",
                color=PAPER if share > WHITE_INK_FROM else INK,
            )
    panel.set_xticks(
        range(len(places)),
        [table.columns[place].header for place in places],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
    )
    panel.set_xticks([edge - 0.5 for edge in range(1, len(places))], minor=True)
    panel.set_yticks([edge - 0.5 for edge in range(1, len(cells))], minor=True)
    panel.grid(which="minor", color=PAPER, linewidth=1.5)
    panel.tick_params(which="both", length=0, colors=FAINT, labelsize=8)
    for spine in panel.spines.values():
        spine.set_visible(False)
