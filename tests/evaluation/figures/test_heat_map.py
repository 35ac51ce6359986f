"""The picture of ways of testing: a panel a score, every number in its cell, dark is larger."""

import math

import numpy as np
import pytest

from evaluation.figures.heat_map import variants_png
from evaluation.tables.systems import BenchmarkTable, Cell, Column


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(
        "evaluation.figures.heat_map.save_png", lambda figure, _: figures.append(figure)
    )
    columns = [
        Column(f"{name}/dice/{region}", name, f"Dice, {region}")
        for region in ("WT", "ET")
        for name in ("one", "two")
    ]
    rows = [
        ("as trained", [Cell(0.9, best=True), Cell(0.8), Cell(0.5), Cell(0.5)]),
        ("without-t1", [Cell(0.1, unlike=True), Cell(0.4, best=True), Cell(), Cell(math.nan)]),
    ]
    variants_png(BenchmarkTable("Subsets", columns, rows), tmp_path / "subsets.png")
    (figure,) = figures
    return figure


def test_every_score_is_a_panel_with_its_numbers_in_their_cells(drawn):
    whole, enhancing = drawn.axes
    assert [whole.get_title(), enhancing.get_title()] == ["Dice, WT", "Dice, ET"]
    assert [label.get_text() for label in whole.get_yticklabels()] == ["as trained", "without-t1"]
    assert [label.get_text() for label in whole.get_xticklabels()] == ["one", "two"]
    places = {text.get_position(): text.get_text() for text in whole.texts}
    assert places == {(0, 0): "0.900", (1, 0): "0.800", (0, 1): "0.100*", (1, 1): "0.400"}
    assert [text.get_text() for text in whole.texts if text.get_fontweight() == "bold"] == [
        "0.900",
        "0.400",
    ]


def test_what_was_not_measured_has_no_number_and_no_colour(drawn):
    enhancing = drawn.axes[1]
    assert {text.get_position(): text.get_text() for text in enhancing.texts} == {
        (0, 0): "0.500",
        (1, 0): "0.500",
        (1, 1): "n/a",
    }
    shown = enhancing.images[0].get_array()
    assert np.isnan(np.ma.filled(shown, math.nan)[1]).all()


def test_the_larger_number_is_darker_and_its_ink_is_read_on_it(drawn):
    whole = drawn.axes[0]
    image = whole.images[0]
    light = image.cmap(image.norm(image.get_array()))[..., :3].mean(-1)
    assert light[0, 0] < light[0, 1] < light[1, 1] < light[1, 0]
    inks = {text.get_text(): text.get_color() for text in whole.texts}
    assert inks["0.900"] == "#ffffff"
    assert inks["0.100*"] != "#ffffff"
