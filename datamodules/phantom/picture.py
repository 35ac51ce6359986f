"""The picture of one phantom patient in the documentation.

Made by `python -m datamodules.phantom.picture docs/phantom.png`: four modalities at 1 mm, the
slice with most tumour, contours of whole tumour, tumour core and enhancing tumour.
"""

import sys
from pathlib import Path

import numpy as np

from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.simulation import PhantomPatient, generate_patient

SEED, INDEX, SPACING = 0, 23, 1.0
_TITLES = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}
_REGIONS = (
    ("whole tumour", (1, 2, 3), "#ffd24d"),
    ("tumour core", (1, 3), "#35d0ff"),
    ("enhancing tumour", (3,), "#ff4d4d"),
)


def draw_patient(patient: PhantomPatient, path: Path) -> None:
    """Draw one axial slice of a patient, radiological view (the patient's right on the left)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    k = int((patient.label > 0).sum(axis=(0, 1)).argmax())
    inside = np.argwhere(patient.images["t1"] > 0)
    (i0, j0, _), (i1, j1, _) = inside.min(axis=0), inside.max(axis=0) + 1
    figure = Figure(figsize=(12, 4.1), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4)
    for panel, modality in zip(panels, MODALITIES, strict=True):
        image = patient.images[modality]
        top = np.percentile(image[image > 0], 99.5)
        panel.imshow(image[i0:i1, j0:j1, k].T[::-1, ::-1], cmap="gray", vmin=0, vmax=top)
        for _, codes, colour in _REGIONS:
            region = np.isin(patient.label[i0:i1, j0:j1, k], codes).T[::-1, ::-1]
            if region.any() and modality in ("t1ce", "flair"):
                panel.contour(region, [0.5], colors=colour, linewidths=0.9)
        panel.set_title(_TITLES[modality], color="white")
        panel.axis("off")
    handles = [Line2D([], [], color=colour, label=name) for name, _, colour in _REGIONS]
    figure.legend(
        handles=handles,
        title="SYNTHETIC: simulated, no patient",
        title_fontproperties={"weight": "bold"},
        loc="outside lower center",
        ncols=3,
        facecolor="black",
        labelcolor="white",
        edgecolor="black",
    ).get_title().set_color("white")
    figure.savefig(path, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    draw_patient(generate_patient(SEED, INDEX, SPACING), Path(sys.argv[1]))
