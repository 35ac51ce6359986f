"""One patient's slice with the reference and every system's prediction, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.layouts.conventions import REGIONS
from evaluation.figures.overlay import (
    COLOURS,
    FAINT,
    INK,
    MODALITY_NAMES,
    PAPER,
    PLANES,
    REGION_NAMES,
    WARNING,
    busiest_slice,
    draw_contour,
    filled_box,
    grey_window,
    save_png,
    show_slice,
    side_letters,
    slice_axis,
)
from evaluation.figures.viewed_case import ViewedCase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Oedema shows in FLAIR, core and enhancing tumour in T1ce.
SHOWN = ("flair", "t1ce")
ACROSS = 5  # panels beside each other
PANEL_INCHES, CAPTION_INCHES = 2.1, 0.52
LEFT_INCHES, TOP_INCHES, BOTTOM_INCHES, MIN_INCHES = 0.32, 0.4, 0.35, 7.2
GAP_INCHES = 0.04


def systems_png(case: ViewedCase, path: Path) -> None:
    """Write a panel for the reference and each system, in FLAIR and T1ce, as a PNG.

    All show the slice in which the reference has most tumour; more systems than fit stand below.

    Args:
        case: the patient.
        path: the file, written under a temporary name and renamed.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    case = case.turned()
    size = np.array(case.spacing)
    across = slice_axis(size)
    sources = {"Reference": case.reference, **case.predictions}
    plane, index = PLANES[across], busiest_slice([masks[0] for masks in sources.values()], across)
    slices = {name: plane.cut(case.images[name], index) for name in SHOWN if name in case.images}
    inside = np.logical_or.reduce([plane.cut(image, index) != 0 for image in case.images.values()])
    box = filled_box(inside, (size[plane.rows], size[plane.columns]))
    rows_mm = (box[0].stop - box[0].start) * size[plane.rows]
    columns_mm = (box[1].stop - box[1].start) * size[plane.columns]
    width = min(ACROSS, len(sources))
    blocks = -(-len(sources) // ACROSS)
    panel = PANEL_INCHES * min(1.6, rows_mm / columns_mm)
    block_height = panel * len(slices) + CAPTION_INCHES
    inches = (
        max(MIN_INCHES, PANEL_INCHES * width + LEFT_INCHES),
        block_height * blocks + TOP_INCHES + BOTTOM_INCHES,
    )
    figure = Figure(figsize=inches, dpi=110, facecolor=PAPER)
    grid = np.array(
        [
            [_panel(figure, column, row, panel, len(slices), inches) for column in range(width)]
            for row in range(blocks * len(slices))
        ]
    )
    for axes in grid.flat:
        axes.set_axis_off()
    extent = (0.0, columns_mm, 0.0, rows_mm)
    for number, (name, masks) in enumerate(sources.items()):
        block, column = divmod(number, ACROSS)
        for row, (modality, picture) in enumerate(slices.items()):
            axes = grid[block * len(slices) + row, column]
            axes.set_axis_on()
            window = grey_window(case.images[modality])
            show_slice(axes, picture[box], inside[box], window, extent)
            for region, mask in zip(REGIONS, masks, strict=False):  # the 2D study may have only WT
                draw_contour(axes, plane.cut(mask, index)[box], region, extent)
            side_letters(axes, plane)
            if row == 0:
                title = {"color": INK, "fontsize": 10, "pad": 4}
                axes.set_title(name, **title)
            if column == 0:
                axes.set_ylabel(MODALITY_NAMES[modality], color=INK, fontsize=10)
        scores = case.scores.get(name, {})
        if scores:
            dice = "  ".join(f"{region} {value:.3f}" for region, value in scores.items())
            axes.set_xlabel(f"Dice  {dice}", color=FAINT, fontsize=8, labelpad=3)
    handles = [
        Line2D([], [], color=COLOURS[region], linewidth=3, label=REGION_NAMES[region])
        for region in REGIONS[: len(case.reference)]
    ]
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.1 / inches[0], 0.2 / inches[1]),
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
    )
    where = f"{plane.name} slice {index + 1} of {case.reference.shape[1 + across]}"
    figure.text(
        LEFT_INCHES / inches[0],
        1 - 0.2 / inches[1],
        f"{case.case_id}, {where}",
        color=INK,
        fontsize=11,
        fontweight="bold",
        va="center",
    )
    if case.synthetic:
        figure.text(
            1 - 0.12 / inches[0],
            0.2 / inches[1],
            "SYNTHETIC",
            color=WARNING,
            fontsize=10,
            weight="bold",
            ha="right",
            va="center",
        )
    save_png(figure, path)


def _panel(
    figure: "Figure", column: int, row: int, panel: float, of: int, inches: tuple[float, float]
) -> "Axes":
    """Return axes at a place of the grid, all lengths in inches; `of` rows are a block."""
    width, height = inches
    block = row // of
    top = TOP_INCHES + row * panel + block * CAPTION_INCHES + CAPTION_INCHES / 2
    left = LEFT_INCHES + column * PANEL_INCHES
    return figure.add_axes(
        (
            left / width,
            1 - (top + panel - GAP_INCHES) / height,
            (PANEL_INCHES - GAP_INCHES) / width,
            (panel - GAP_INCHES) / height,
        )
    )
