"""The picture of a reconstruction: three panels, written whole, phantoms marked."""

import matplotlib.image
import numpy as np

from evaluation.figures.overlay import WARNING
from evaluation.figures.reconstruction import reconstruction_png


def test_panels_and_mark(tmp_path):
    image = np.zeros((3, 32, 32))
    image[:, 8:24, 8:24] = np.linspace(-2, 2, 16)
    hidden = np.zeros((1, 32, 32))
    hidden[0, :16] = 1
    marked, plain = tmp_path / "a" / "marked.png", tmp_path / "a" / "plain.png"
    reconstruction_png(image, hidden, image * 0.5, marked, synthetic=True)
    reconstruction_png(image, hidden, image * 0.5, plain)
    colour = [int(WARNING[i : i + 2], 16) / 255 for i in (1, 3, 5)]

    def warned(path):
        picture = matplotlib.image.imread(path)[..., :3]
        return int((np.abs(picture - colour).max(axis=-1) < 0.05).sum())

    assert warned(marked) > 50
    assert warned(plain) == 0
    assert sorted(path.name for path in marked.parent.iterdir()) == ["marked.png", "plain.png"]
