"""The picture of a modality translation: measured modalities above translated ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.figures.overlay import INK, MODALITY_NAMES, PAPER, WARNING, save_png


def translation_png(
    true: Mapping[str, np.ndarray],
    translated: Mapping[str, np.ndarray],
    path: Path,
    *,
    synthetic: bool = False,
) -> None:
    """Write one axial slice of every modality above its translation as a PNG.

    Args:
        true: modality to slice (R, A) of z-scores, 0 outside the brain.
        translated: modality to the slice (R, A) translated from the other pair.
        path: the file.
        synthetic: whether the slice shows a phantom.
    """
    from matplotlib.figure import Figure

    brain = np.any([one != 0 for one in true.values()], axis=0)
    inside = [np.flatnonzero(brain.any(axis=1 - axis)) for axis in (0, 1)]
    box = tuple(slice(one[0], one[-1] + 1) if one.size else slice(None) for one in inside)
    figure = Figure(figsize=(2.6 * len(true), 6.4), dpi=120, facecolor=PAPER, layout="constrained")
    axes = figure.subplots(2, len(true), squeeze=False)
    for column, name in enumerate(true):
        values = true[name][brain]
        low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
        made = np.where(brain, translated[name], 0.0)
        for row, picture in enumerate((true[name], made)):
            # radiological: the patient's right is on the left
            shown = np.where(brain, picture, np.nan)[box][::-1].T
            axes[row, column].imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower")
            axes[row, column].set_facecolor(PAPER)
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
        axes[0, column].set_title(MODALITY_NAMES[name], color=INK, fontsize=12)
    for row, label in enumerate(("measured", "translated from the other pair")):
        axes[row, 0].set_ylabel(label, color=INK, fontsize=11)
    if synthetic:
        figure.suptitle("SYNTHETIC", color=WARNING, fontsize=12, weight="bold", x=0.98, ha="right")
    save_png(figure, path)
