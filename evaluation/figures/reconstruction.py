"""The picture of a masked-image reconstruction: slice, visible part, reconstructed part."""

from pathlib import Path

import numpy as np

from evaluation.figures.overlay import INK, PAPER, WARNING, save_png


def reconstruction_png(
    image: np.ndarray,
    hidden: np.ndarray,
    reconstructed: np.ndarray,
    path: Path,
    *,
    synthetic: bool = False,
) -> None:
    """Write the first channel of one slice three times side by side as a PNG.

    Args:
        image: (C, H, W) z-scores.
        hidden: (1, H, W), 1 where the network saw nothing.
        reconstructed: (C, H, W); shown where brain was hidden, the slice itself elsewhere.
        path: the file.
        synthetic: whether the slice shows a phantom.
    """
    from matplotlib.figure import Figure

    whole, mask = image[0], hidden[0] > 0.5
    panels = {
        "slice": whole,
        "what the encoder sees": np.where(mask, np.nan, whole),
        "reconstruction of the hidden blocks": np.where(
            mask & (whole != 0), reconstructed[0], whole
        ),
    }
    inside = whole[whole != 0]
    low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 1.0)
    figure = Figure(figsize=(11, 4.2), dpi=120, facecolor=PAPER, layout="constrained")
    for axes, (name, picture) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_facecolor("#33475b")  # hidden
        axes.set_title(name, color=INK, fontsize=12)
        axes.set_xticks([])
        axes.set_yticks([])
    if synthetic:
        figure.suptitle("SYNTHETIC", color=WARNING, fontsize=12, weight="bold", x=0.98, ha="right")
    save_png(figure, path)
