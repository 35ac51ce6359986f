"""The picture of a registration: edges over T2 before and after, and a checkerboard.

One row a sequence: axial and coronal T2 with the sequence's edges where the files put it, the same
after registration, and T2 and the sequence in alternate squares. Radiological view.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from datamodules.registration.align import Alignment
from datamodules.registration.scan import Scan

TITLES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
_PIXEL = 0.75  # mm of the drawn slices
_SQUARE = 24  # pixels of a checkerboard's square
_EDGE_SIGMA = 1.8  # pixels
_MARGIN = 7.0  # mm around T2's head
_BEFORE, _AFTER, _LABEL = "#ff6a3d", "#4dff88", "#ffd24d"
_COLUMNS = (
    "axial, as delivered",
    "coronal, as delivered",
    "axial, registered",
    "coronal, registered",
    "checkerboard with T2",
    "checkerboard with T2",
)

Array = npt.NDArray[Any]


def draw_sheet(
    case_id: str,
    scans: Mapping[str, Scan],
    alignments: Mapping[str, Alignment],
    label: Array | None,
    path: Path,
) -> None:
    """Write the sheet of one patient.

    Args:
        case_id: For the title.
        scans: T2 and the sequences registered to it.
        alignments: Result of each.
        label: Label map on T2's grid, drawn as a contour on the checkerboards.
        path: The PNG.
    """
    import SimpleITK as sitk  # noqa: N813 - its customary name
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fixed = scans["t2"]
    planes = _planes(fixed, label)
    here = sitk.Euler3DTransform()
    ground = [_window(_slice(fixed.image, plane, here)) for plane in planes]
    tumour = [] if label is None else [_label_slice(fixed, label, plane) for plane in planes]
    tall = max(image.shape[0] for image in ground) / ground[0].shape[1]
    figure = Figure(
        figsize=(16, 1.25 + len(alignments) * (16 / 6 * tall + 0.42)), facecolor="black"
    )
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(alignments), 6, squeeze=False)
    for number, (modality, alignment) in enumerate(alignments.items()):
        row = rows[number]
        image = scans[modality].image
        before = [_window(_slice(image, plane, here)) for plane in planes]
        after = [_window(_slice(image, plane, alignment.transform)) for plane in planes]
        for view in range(2):
            _edges(row[view], ground[view], before[view], _BEFORE)
            _edges(row[2 + view], ground[view], after[view], _AFTER)
            row[4 + view].imshow(_checkerboard(ground[view], after[view]), cmap="gray")
            if tumour and tumour[view].any():
                row[4 + view].contour(tumour[view], [0.5], colors=_LABEL, linewidths=0.8)
        for panel, title in zip(row, _COLUMNS, strict=True):
            panel.axis("off")
            panel.set_anchor("N")
            if number == 0:
                panel.set_title(title, color="white", fontsize=10, pad=26)
        _caption(row[0], modality, alignment)
    _headline(figure, case_id, scans, alignments, bool(tumour))
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.01, top=1 - 1.3 / figure.get_figheight(), wspace=0.02,
        hspace=0.42 / (16 / 6 * tall),
    )  # fmt: skip
    figure.savefig(path, dpi=90, facecolor="black", metadata={"Software": None})


def _caption(panel: Any, modality: str, alignment: Alignment) -> None:
    """One line over a row: the sequence, its motion, and the verdict."""
    good = not alignment.flags
    text = (
        f"{TITLES[modality]}: turned {alignment.degrees:.1f} degrees, brain's centre shifted "
        f"{alignment.shift_mm:.1f} mm; similarity {alignment.before:.2f} before, "
        f"{alignment.after:.2f} after; shows {alignment.overlap:.0%} of what T2 shows.  "
    )
    panel.text(
        0.0, 1.025, text + ("GOOD" if good else "FLAGGED"), transform=panel.transAxes,
        color=_AFTER if good else _BEFORE, fontsize=11, ha="left", va="bottom",
    )  # fmt: skip


def _headline(
    figure: Any,
    case_id: str,
    scans: Mapping[str, Scan],
    alignments: Mapping[str, Alignment],
    labelled: bool,
) -> None:
    """Title, verdict and legend."""
    flags = [flag for alignment in alignments.values() for flag in alignment.flags]
    high = figure.get_figheight()
    verdict = "flagged: " + "; ".join(flags) if flags else "good"
    figure.text(
        0.01, 1 - 0.30 / high, f"{case_id}: registration to T2, {verdict}", color="white",
        fontsize=13, weight="bold", va="center",
    )  # fmt: skip
    legend = (
        "T2 in grey under the edges of each sequence (orange: where the files put it, green: "
        "registered); the patient's right is on the left"
    )
    legend += "; yellow: the label" if labelled else ""
    figure.text(0.01, 1 - 0.58 / high, legend, color="#bbbbbb", fontsize=10, va="center")
    if any(b"SYNTHETIC" in scan.volume.header for scan in scans.values()):
        figure.text(
            0.99, 1 - 0.58 / high, "SYNTHETIC: simulated, no patient", color="white", fontsize=11,
            weight="bold", ha="right", va="center",
        )  # fmt: skip


def _planes(fixed: Scan, label: Array | None) -> list[Any]:
    """An axial and a coronal plane through T2's head, through the label where it is largest."""
    points = fixed.points
    low, high = points.min(axis=0) - _MARGIN, points.max(axis=0) + _MARGIN
    centre = fixed.centre
    if label is not None and label.any():
        centre = _middle_of(fixed, label)
    size = np.ceil((high - low) / _PIXEL).astype(int)
    # Rows run from front to back and from top to bottom, columns from the patient's right.
    axial = _plane(
        (low[0], low[1], centre[2]), (int(size[0]), int(size[1])), ((1, 0, 0), (0, 1, 0))
    )
    coronal = _plane(
        (low[0], centre[1], high[2]), (int(size[0]), int(size[2])), ((1, 0, 0), (0, 0, -1))
    )
    return [axial, coronal]


def _plane(
    origin: tuple[float, ...], size: tuple[int, int], axes: tuple[tuple[int, ...], ...]
) -> Any:
    """An empty SimpleITK image of one slice, LPS."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    plane = sitk.Image([*size, 1], sitk.sitkUInt8)
    plane.SetOrigin([float(o) for o in origin])
    plane.SetSpacing([_PIXEL] * 3)
    direction = np.stack([*np.array(axes), np.cross(*np.array(axes))], axis=1)
    plane.SetDirection(direction.astype(float).ravel().tolist())
    return plane


def _middle_of(fixed: Scan, label: Array) -> Array:
    """Centre of mass of a label on T2's grid, LPS mm."""
    index = np.argwhere(label > 0).mean(axis=0)
    ras = fixed.volume.affine @ np.append(index, 1.0)
    return np.array([-ras[0], -ras[1], ras[2]])


def _slice(image: Any, plane: Any, transform: Any) -> Array:
    """A slice (rows, columns) of an image seen through a transform."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    cut = sitk.Resample(image, plane, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.array(sitk.GetArrayViewFromImage(cut)[0])


def _label_slice(fixed: Scan, label: Array, plane: Any) -> Array:
    """A slice of the label's mask."""
    import SimpleITK as sitk  # noqa: N813 - its customary name

    from datamodules.registration.scan import to_sitk

    mask = to_sitk((label > 0).astype(np.uint8), fixed.volume.affine)
    cut = sitk.Resample(mask, plane, sitk.Euler3DTransform(), sitk.sitkNearestNeighbor)
    return np.array(sitk.GetArrayViewFromImage(cut)[0])


def _window(values: Array) -> Array:
    """Grey values from 0 to 1, the brightest half percent cut."""
    shown = values[values > 0]
    top = float(np.percentile(shown, 99.5)) if shown.size else 1.0
    return np.clip(values / max(top, 1e-6), 0, 1)


def _edges(panel: Any, ground: Array, other: Array, colour: str) -> None:
    """T2 with the edges of the other sequence drawn over it."""
    panel.imshow(ground, cmap="gray", vmin=0, vmax=1.15)
    # Where the second derivative changes sign on a steep slope (Marr and Hildreth's edges).
    steep = ndi.gaussian_gradient_magnitude(other, _EDGE_SIGMA)
    if not steep.max() > 0:
        return
    enough = np.percentile(steep[steep > 0.02 * steep.max()], 65)
    bend = np.ma.masked_where(steep < enough, ndi.gaussian_laplace(other, _EDGE_SIGMA))
    panel.contour(bend, [0.0], colors=colour, linewidths=0.7)


def _checkerboard(first: Array, second: Array) -> Array:
    """Alternate squares of two slices."""
    rows, columns = np.indices(first.shape) // _SQUARE
    return np.where((rows + columns) % 2 == 0, first, second)
