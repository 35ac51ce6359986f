"""Pictures of a patient: contours of the regions over the four modalities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.layouts.conventions import REGIONS
from evaluation.metrics.scores import dice
from files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODALITY_NAMES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
REGION_NAMES = {"WT": "whole tumour", "TC": "tumour core", "ET": "enhancing tumour"}
# Distinct with any colour vision, and against grey. Core and enhancing tumour often share a
# border, so one line is thinner and both are seen.
COLOURS = {"WT": "#4cc9f0", "TC": "#ffd166", "ET": "#ff5d73"}
WIDTHS = {"WT": 2.0, "TC": 2.2, "ET": 1.0}
INK, FAINT, PAPER, WARNING = "#f2f2f2", "#9a9a9a", "#0d0f12", "#ffb000"
MARGIN_MM = 6.0
PANEL_INCHES = 3.1


@dataclass(frozen=True)
class Plane:
    """A way to cut a volume in RAS order: radiological, as if looking from the patient's feet.

    Args:
        name: name of the plane.
        columns: axis of the volume that a picture's columns go along.
        flip_columns: whether they go against it.
        rows: axis that its rows go along, upwards.
        left: letter of the side on the left.
        right: letter of the side on the right.
    """

    name: str
    columns: int
    flip_columns: bool
    rows: int
    left: str
    right: str

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Return a slice of a volume (*S) in RAS order: first row lowest, (rows, columns)."""
        picture = np.take(volume, index, axis=3 - self.columns - self.rows)  # the others, in order
        return picture.T[:, ::-1] if self.flip_columns else picture.T


# By the axis across the slice. The patient's right is on the left; in profile the nose points left.
PLANES = (
    Plane("sagittal", columns=1, flip_columns=True, rows=2, left="A", right="P"),
    Plane("coronal", columns=0, flip_columns=True, rows=2, left="R", right="L"),
    Plane("axial", columns=0, flip_columns=True, rows=1, left="R", right="L"),
)


def overlay_png(
    images: Mapping[str, np.ndarray],
    prediction: np.ndarray,
    reference: np.ndarray | None,
    path: Path,
    title: str,
    spacing: Sequence[float],
    orientation: str = "RAS",
    synthetic: bool = False,
    remark: str = "",
) -> None:
    """Write the slice with most tumour, all modalities side by side, as a PNG.

    Thick slices are shown in the plane in which they were taken, all others are axial.

    Args:
        images: modality to volume (*S), 0 outside the brain.
        prediction: regions WT, TC, ET, bool (3, *S).
        reference: the same of the reference, drawn in a second row, or None.
        path: the file, written under a temporary name and renamed.
        title: above the picture, the patient.
        spacing: voxel size in mm along every axis of S.
        orientation: where the axes of S point to, as nibabel's ``aff2axcodes`` returns it.
        synthetic: mark the picture as a phantom's.
        remark: words about the origin of the prediction, below the picture.
    """
    figure = _overlay(images, prediction, reference, title, spacing, orientation, synthetic, remark)
    save_png(figure, path)


def overlay_array(
    images: Mapping[str, np.ndarray],
    prediction: np.ndarray,
    reference: np.ndarray | None,
    title: str,
    spacing: Sequence[float],
    orientation: str = "RAS",
    synthetic: bool = False,
) -> np.ndarray:
    """Return the picture of :func:`overlay_png` as RGB, (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _overlay(images, prediction, reference, title, spacing, orientation, synthetic)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _overlay(
    images: Mapping[str, np.ndarray],
    prediction: np.ndarray,
    reference: np.ndarray | None,
    title: str,
    spacing: Sequence[float],
    orientation: str,
    synthetic: bool,
    remark: str = "",
) -> "Figure":
    from matplotlib.figure import Figure

    axes_order, flipped = to_ras(orientation)
    size = np.array([spacing[axis] for axis in axes_order], dtype=float)  # mm

    def turn(volume: np.ndarray) -> np.ndarray:
        return np.flip(np.transpose(volume, axes_order), flipped)

    volumes = {name: turn(np.asarray(image)) for name, image in images.items()}
    regions = {"Prediction": [turn(mask) for mask in prediction]}
    if reference is not None:
        regions["Reference"] = [turn(mask) for mask in reference]

    across = slice_axis(size)
    plane, index = PLANES[across], busiest_slice([masks[0] for masks in regions.values()], across)

    def cut(volume: np.ndarray) -> np.ndarray:
        return plane.cut(volume, index)

    height, width = size[plane.rows], size[plane.columns]  # mm of a picture element
    slices = {name: cut(volume) for name, volume in volumes.items()}
    # After the z-score 0 is also the brain's mean, so background is 0 in every modality at once.
    inside = np.logical_or.reduce([picture != 0 for picture in slices.values()])
    box = filled_box(inside, (height, width))
    rows_mm = (box[0].stop - box[0].start) * height
    columns_mm = (box[1].stop - box[1].start) * width
    panel_height = PANEL_INCHES * min(1.6, rows_mm / columns_mm)
    inches = (PANEL_INCHES * len(slices) + 0.5, panel_height * len(regions) + 1.45)
    figure = Figure(figsize=inches, dpi=120, facecolor=PAPER)
    grid = figure.subplots(
        len(regions),
        len(slices),
        squeeze=False,
        gridspec_kw={
            "left": 0.45 / inches[0],
            "right": 1 - 0.05 / inches[0],
            "top": 1 - 0.72 / inches[1],
            "bottom": 0.73 / inches[1],
            "wspace": 0.02,
            "hspace": 0.02,
        },
    )
    extent = (0.0, columns_mm, 0.0, rows_mm)
    for row, (source, masks) in enumerate(regions.items()):
        for column, (name, picture) in enumerate(slices.items()):
            axes = grid[row, column]
            show_slice(axes, picture[box], inside[box], grey_window(volumes[name]), extent)
            for region, mask in zip(REGIONS, masks, strict=False):  # the 2D study may have only WT
                draw_contour(axes, cut(mask)[box], region, extent)
            side_letters(axes, plane)
            if row == 0:
                axes.set_title(MODALITY_NAMES.get(name, name), color=INK, fontsize=12, pad=5)
        grid[row, 0].set_ylabel(source, color=INK, fontsize=12, labelpad=6)
    _scale_bar(grid[0, -1], columns_mm)
    where = f"{plane.name} slice {index + 1} of {volumes[next(iter(volumes))].shape[across]}"
    _captions(figure, inches, title, where, plane, synthetic)
    if remark:
        _below(figure, inches, remark)
    _legend(figure, inches, regions, float(np.prod(size)) / 1000)
    return figure


def slice_axis(size: np.ndarray) -> int:
    """Return the axis across thick slices; across axial ones where voxels are about cubes.

    Args:
        size: voxel edges in mm along R, A, S.
    """
    return int(np.argmax(size)) if size.max() > 2 * size.min() else 2


def to_ras(orientation: str) -> tuple[list[int], tuple[int, ...]]:
    """Return the order of the axes that makes them R, A, S, and those to be reversed then."""
    names = ("RL", "AP", "SI")
    order = [next(i for i, code in enumerate(orientation) if code in pair) for pair in names]
    return order, tuple(i for i, source in enumerate(order) if orientation[source] in "LPI")


def busiest_slice(masks: Sequence[np.ndarray], across: int) -> int:
    """Return the slice with most voxels of the first mask that has any, else the middle one."""
    others = tuple(axis for axis in range(3) if axis != across)
    for mask in masks:
        if mask.any():
            return int(np.argmax(mask.sum(axis=others)))
    return masks[0].shape[across] // 2


def filled_box(inside: np.ndarray, spacing: tuple[float, float]) -> tuple[slice, slice]:
    """Return the box around a picture's true part, with a margin; the whole picture if empty."""
    box = []
    for axis in (0, 1):
        places = np.flatnonzero(inside.any(axis=1 - axis))
        margin = round(MARGIN_MM / spacing[axis])
        length = inside.shape[axis]
        if len(places):
            box.append(
                slice(max(0, int(places[0]) - margin), min(length, int(places[-1]) + 1 + margin))
            )
        else:
            box.append(slice(0, length))
    return box[0], box[1]


def grey_window(volume: np.ndarray) -> tuple[float, float]:
    """Return the intensities shown black and white, from the volume outside its background."""
    inside = volume[volume != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside[:: max(1, inside.size // 200_000)], (0.5, 99.7))
    return float(low), float(max(high, low + 1e-6))


def show_slice(
    axes: "Axes",
    picture: np.ndarray,
    inside: np.ndarray,
    window: tuple[float, float],
    extent: tuple[float, float, float, float],
) -> None:
    """Show a slice in grey.

    Args:
        axes: where.
        picture: intensities (rows, columns), first row lowest.
        inside: the foreground, of the same shape; black elsewhere.
        window: intensities shown black and white.
        extent: left, right, bottom and top in mm.
    """
    low, high = window
    grey = np.clip((picture.astype(np.float32) - low) / (high - low), 0, 1)
    grey[~inside] = 0
    axes.imshow(
        grey, cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent, interpolation="bilinear"
    )
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_contour(
    axes: "Axes", mask: np.ndarray, region: str, extent: tuple[float, float, float, float]
) -> None:
    """Draw the border of a region's mask (rows, columns), in its colour; extent in mm."""
    if mask.any():
        padded = np.pad(mask.astype(np.float32), 1)  # a border on the edge of the picture closes
        rows, columns = mask.shape
        axes.contour(
            (np.arange(-1, columns + 1) + 0.5) * extent[1] / columns,
            (np.arange(-1, rows + 1) + 0.5) * extent[3] / rows,
            padded,
            levels=[0.5],
            colors=COLOURS[region],
            linewidths=WIDTHS[region],
        )


def side_letters(axes: "Axes", plane: Plane) -> None:
    """Write which side of the patient is left and which right."""
    for place, side, letter in ((0.02, "left", plane.left), (0.98, "right", plane.right)):
        axes.text(
            place,
            0.97,
            letter,
            transform=axes.transAxes,
            color=FAINT,
            fontsize=10,
            ha=side,
            va="top",
        )


def _scale_bar(axes: "Axes", columns_mm: float) -> None:
    start, stop = columns_mm * 0.96 - 50, columns_mm * 0.96
    axes.plot([start, stop], [4, 4], color=INK, linewidth=2, solid_capstyle="butt")
    axes.text((start + stop) / 2, 6, "5 cm", color=INK, fontsize=8, ha="center", va="bottom")


def _captions(
    figure: "Figure",
    inches: tuple[float, float],
    title: str,
    where: str,
    plane: Plane,
    synthetic: bool,
) -> None:
    left, right, top = 0.45 / inches[0], 1 - 0.15 / inches[0], 1 - 0.22 / inches[1]
    figure.text(left, top, title, color=INK, fontsize=14, weight="bold", va="center")
    sides = {"R": "the patient's right is on the left", "A": "the patient looks to the left"}
    figure.text(
        right,
        0.2 / inches[1],
        f"{where} · {sides[plane.left]}",
        color=FAINT,
        fontsize=9,
        ha="right",
        va="center",
    )
    if synthetic:
        figure.text(
            right,
            top,
            "SYNTHETIC",
            color=WARNING,
            fontsize=12,
            weight="bold",
            ha="right",
            va="center",
            bbox={"boxstyle": "round,pad=0.3", "edgecolor": WARNING, "facecolor": PAPER},
        )


def _below(figure: "Figure", inches: tuple[float, float], remark: str) -> None:
    """Write a remark at the lower left, opposite the name of the plane."""
    place = (0.45 / inches[0], 0.2 / inches[1])
    figure.text(*place, remark, color=WARNING, fontsize=9, weight="bold", va="center")


def _legend(
    figure: "Figure",
    inches: tuple[float, float],
    regions: Mapping[str, Sequence[np.ndarray]],
    voxel_ml: float,
) -> None:
    """Name the colours, with the volume of every region and, with a reference, its Dice."""
    from matplotlib.lines import Line2D

    handles = []
    counted = len(next(iter(regions.values())))
    for index, region in enumerate(REGIONS[:counted]):
        masks = [np.asarray(source[index], dtype=bool) for source in regions.values()]
        volumes = [f"{mask.sum() * voxel_ml:.1f}" for mask in masks]
        label = f"{REGION_NAMES[region]} ({region})  {volumes[0]} ml"
        if len(masks) == 2:
            label += f" (reference {volumes[1]}), Dice {dice(masks[0], masks[1]):.3f}"
        handles.append(Line2D([], [], color=COLOURS[region], linewidth=3, label=label))
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.35 / inches[0], 0.51 / inches[1]),
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
        columnspacing=1.2,
        handlelength=1.4,
    )


def save_png(figure: "Figure", path: Path) -> None:
    """Write a figure under a temporary name and rename it."""
    colour = figure.get_facecolor()
    write_atomically(path, lambda file: figure.savefig(file, format="png", facecolor=colour))
