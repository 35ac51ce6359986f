"""The picture of a comparison: what is drawn, for many systems, one patient, no score at all."""

import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation.figures.box_plots import BETTER, LINE_ALPHA, WORSE, comparison_png
from evaluation.statistics.columns import score_columns


def scored(count, shift=0.0):
    return [
        {
            "case_id": f"p{index}",
            "dice/WT": min(1.0, 0.5 + 0.04 * index + shift),
            "hd95/WT": 373.13 if index == 0 else 5.0 + index,
            "hd95/TC": float("nan") if shift else float("inf"),
        }
        for index in range(count)
    ]


@pytest.mark.parametrize(("count", "names"), [(1, "ab"), (12, "ab"), (3, "abcdefgh")])
def test_a_picture_is_drawn_without_warnings(tmp_path, count, names):
    systems = {name * 12: scored(count, 0.01 * place) for place, name in enumerate(names)}
    columns = score_columns(systems["a" * 12][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison_png(systems, columns, "a" * 12, tmp_path / "new" / "c.png", "title")
    picture = imread(tmp_path / "new" / "c.png")
    assert picture.shape[0] > 800
    assert np.ptp(picture[..., :3]) > 0.5
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["c.png"]


def test_the_smallest_picture_has_room_to_say_what_p_is_corrected_with(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "evaluation.figures.box_plots.save_png", lambda figure, _: figures.append(figure)
    )
    systems = {"a": scored(8), "b": scored(8, 0.1)}
    comparison_png(systems, score_columns(["dice/WT"], ["dice"]), "a", tmp_path / "c.png")
    (figure,) = figures
    figure.canvas.draw()
    (legend,) = figure.legends
    assert "regions of the metric" in legend.get_title().get_text()
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(("key", "better"), [("dice/WT", 0.05), ("hd95/WT", -0.05)])
def test_lines_show_who_gained_and_who_lost(tmp_path, key, better):
    def share(colour, shift):
        moved = [{**row, key: row[key] + shift} for row in scored(8)]
        comparison_png({"a": scored(8), "b": moved}, score_columns([key], [key]), "a", path)
        mixed = [LINE_ALPHA * int(colour[i : i + 2], 16) / 255 + 1 - LINE_ALPHA for i in (1, 3, 5)]
        return int((np.abs(imread(path)[..., :3] - mixed).max(axis=2) < 0.03).sum())

    path = tmp_path / "c.png"
    assert share(BETTER, better) > 10 * share(WORSE, better)
    assert share(WORSE, -better) > 10 * share(BETTER, -better)


def test_a_picture_of_one_region_is_tested_with_all_of_its_family(tmp_path, monkeypatch):
    def printed_p(**options):
        figures = []
        monkeypatch.setattr(
            "evaluation.figures.box_plots.save_png", lambda figure, _: figures.append(figure)
        )
        comparison_png({"a": rows, "b": moved}, family[:1], "a", tmp_path / "c.png", **options)
        texts = [text.get_text() for axes in figures[0].axes for text in axes.texts]
        (found,) = [text.splitlines()[0] for text in texts if text.startswith("p ")]
        return float(found.removeprefix("p "))

    rows = [{"case_id": f"p{i}", "dice/WT": 0.5, "dice/TC": 0.5} for i in range(8)]
    moved = [
        {"case_id": f"p{i}", "dice/WT": 0.51 + 0.01 * i, "dice/TC": 0.51 + 0.01 * i}
        for i in range(8)
    ]
    family = score_columns(rows[0])
    assert [column.region for column in family] == ["WT", "TC"]
    assert printed_p() == pytest.approx(2 / 2**8, abs=1e-4)  # all eight pairs gain
    assert printed_p(family=family) == pytest.approx(2 * 2 / 2**8, abs=1e-4)
