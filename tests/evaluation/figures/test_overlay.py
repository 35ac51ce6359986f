"""Overlays: the right slice, the right way round, the right shape, whatever the array order."""

import matplotlib.colors
import numpy as np
import pytest

from evaluation.figures.curves import training_curves_png
from evaluation.figures.overlay import COLOURS, WARNING, overlay_array, overlay_png

SHAPE = (44, 52, 40)  # R, A, S


def volumes():
    """A brain-like box with a tumour in the right front, enhancing only in the upper half."""
    rng = np.random.default_rng(0)
    image = np.zeros(SHAPE, dtype=np.float32)
    image[4:40, 4:48, 4:36] = rng.normal(size=(36, 44, 32)) * 0.1 + 1
    regions = np.zeros((3, *SHAPE), dtype=bool)
    regions[0, 28:38, 32:44, 10:30] = True
    regions[1, 30:36, 34:42, 12:28] = True
    regions[2, 32:34, 36:40, 20:28] = True
    regions[0, 8:38, 32:44, 25] = True  # most tumour in slice 25
    return {name: image for name in ("t1", "t1ce", "t2", "flair")}, regions


def coloured(picture, region):
    colour = np.array(matplotlib.colors.to_rgb(COLOURS[region])) * 255
    return np.abs(picture.astype(float) - colour).max(-1) < 12


def test_every_region_is_drawn_and_the_reference_makes_a_second_row():
    images, regions = volumes()
    single = overlay_array(images, regions, None, "patient", (1, 1, 1))
    double = overlay_array(images, regions, np.roll(regions, 2, 1), "patient", (1, 1, 1))
    assert single.dtype == np.uint8
    assert double.shape[0] > 1.5 * single.shape[0]
    for region in COLOURS:
        assert coloured(single, region).sum() > 100
        assert coloured(double, region).sum() > coloured(single, region).sum()


def test_patient_right_is_left_and_front_is_up():
    images, regions = volumes()
    regions[:, :28] = False  # the tumour is in the right front alone
    picture = overlay_array(images, regions, None, "", (1, 1, 1))
    height, width = picture.shape[:2]
    legend = int(0.7 * height)
    panel = slice(int(0.05 * width), int(0.26 * width))
    rows, columns = np.nonzero(coloured(picture[:legend, panel], "WT"))
    assert columns.mean() < 0.45 * (panel.stop - panel.start)
    assert rows.mean() < 0.45 * height


@pytest.mark.parametrize("orientation", ["LPS", "SAR", "PIR"])
def test_picture_is_the_same_from_any_array_order(orientation):
    """A volume stored another way round gives the same picture to the last pixel."""
    images, regions = volumes()
    spacing = (1.0, 0.9, 1.2)
    names = ("RL", "AP", "SI")
    order = [next(i for i, pair in enumerate(names) if code in pair) for code in orientation]
    flips = tuple(i for i, code in enumerate(orientation) if code in "LPI")

    def stored(volume):
        return np.flip(np.transpose(volume, order), flips)

    turned = overlay_array(
        {name: stored(image) for name, image in images.items()},
        np.stack([stored(mask) for mask in regions]),
        None,
        "",
        [spacing[axis] for axis in order],
        orientation,
    )
    assert np.array_equal(turned, overlay_array(images, regions, None, "", spacing))


def test_spacing_sets_the_shape_of_the_picture():
    """Voxels 2 mm in depth, half as many: the panels keep their shape."""
    images, regions = volumes()
    fine = overlay_array(images, regions, None, "", (1, 1, 1))
    coarse = overlay_array(
        {name: image[:, ::2] for name, image in images.items()},
        regions[:, :, ::2],
        None,
        "",
        (1, 2, 1),
    )
    assert coarse.shape[0] == pytest.approx(fine.shape[0], rel=0.04)


def test_synthetic_is_marked():
    images, regions = volumes()
    amber = np.array(matplotlib.colors.to_rgb(WARNING)) * 255
    counts = [
        (
            np.abs(overlay_array(images, regions, None, "", (1, 1, 1), synthetic=mark) - amber).max(
                -1
            )
            < 9
        ).sum()
        for mark in (False, True)
    ]
    assert counts[0] == 0
    assert counts[1] > 200


def test_files_appear_whole_even_without_tumour_or_brain(tmp_path):
    images, regions = volumes()
    empty = np.zeros_like(regions)
    blank = {name: np.zeros(SHAPE, dtype=np.float32) for name in images}
    overlay_png(images, empty, None, tmp_path / "a" / "healthy.png", "", (1, 1, 5))
    overlay_png(blank, empty, empty, tmp_path / "a" / "blank.png", "", (5, 1, 1))
    rows = [{"epoch": 0, "train/loss": 0.9}, {"epoch": 1, "train/loss": 0.5, "val/dice/mean": 0.4}]
    training_curves_png(rows, tmp_path / "a" / "curves.png", "run")
    training_curves_png([], tmp_path / "a" / "none.png")
    files = sorted((tmp_path / "a").iterdir())
    assert [file.name for file in files] == ["blank.png", "curves.png", "healthy.png", "none.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_a_remark_stands_at_the_lower_left(tmp_path):
    images, regions = volumes()
    files = {remark: tmp_path / f"{len(remark)}.png" for remark in ("", "trained on phantoms")}
    for remark, file in files.items():
        overlay_png(images, regions, None, file, "", (1, 1, 1), remark=remark)
    plain, marked = (matplotlib.image.imread(file) for file in files.values())
    rows, columns = np.nonzero((plain != marked).any(-1))
    assert len(rows) > 200
    assert rows.min() > 0.85 * plain.shape[0]
    assert columns.max() < 0.5 * plain.shape[1]
