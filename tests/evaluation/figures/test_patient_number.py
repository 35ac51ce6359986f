"""The curve over the number of patients trained on: its points, bands and panels."""

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation.figures.patient_number import TrainedOn, patient_number_png
from evaluation.statistics.columns import score_columns


def rows(mean, count=8):
    """Scores of two seeds for each of some patients."""
    return [
        {"case_id": f"p{index}", "dice/WT": mean + 0.01 * index + seed, "dice/TC": mean / 2}
        for index in range(count)
        for seed in (-0.02, 0.02)
    ]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(
        "evaluation.figures.patient_number.save_png", lambda figure, _: figures.append(figure)
    )

    def draw(points, columns):
        patient_number_png(points, columns, tmp_path / "c.png", "title")
        return figures[-1]

    return draw


POINTS = [
    TrainedOn("given", 4, rows(0.6)),
    TrainedOn("given", 0, rows(0.5)),
    TrainedOn("random", 0, rows(0.2)),
    TrainedOn("random", 1, rows(0.3)),
]
COLUMNS = score_columns(["dice/WT", "dice/TC"], ["dice"])


def test_a_line_a_system_a_panel_a_region_and_the_mean_over_patients(drawn):
    figure = drawn(POINTS, COLUMNS)
    assert [axes.get_title() for axes in figure.axes] == ["WT, whole volumes", "TC, whole volumes"]
    whole, core = figure.axes
    given, random = whole.get_lines()
    assert given.get_label() == "given"
    assert given.get_xdata().tolist() == [0, 4]  # in their order
    assert given.get_ydata() == pytest.approx([0.535, 0.635])
    assert random.get_ydata() == pytest.approx([0.235, 0.335])
    assert core.get_lines()[0].get_ydata() == pytest.approx([0.25, 0.3])
    assert [int(tick) for tick in whole.get_xticks()] == [0, 1, 4]
    band = whole.collections[0].get_paths()[0].vertices[:, 1]
    assert 0.50 < band.min() < 0.535 < 0.635 < band.max() < 0.67
    assert "95% interval" in figure.legends[0].get_title().get_text()


def test_one_patient_has_a_point_without_a_band(drawn):
    figure = drawn([TrainedOn("given", n, rows(0.5, 1)) for n in (0, 2)], COLUMNS[:1])
    assert figure.axes[0].get_lines()[0].get_ydata() == pytest.approx([0.5, 0.5])


def test_the_picture_is_written(tmp_path):
    patient_number_png(POINTS, COLUMNS, tmp_path / "new" / "c.png")
    assert np.ptp(imread(tmp_path / "new" / "c.png")[..., :3]) > 0.5


@pytest.mark.parametrize(
    ("numbers", "scale"), [((2, 4, 8, 16), "log"), ((2, 8), "linear"), ((0, 1, 8), "linear")]
)
def test_numbers_far_apart_stand_on_a_logarithmic_axis(drawn, numbers, scale):
    axes = drawn([TrainedOn("given", n, rows(0.5)) for n in numbers], COLUMNS[:1]).axes[0]
    assert axes.get_xscale() == scale
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(n) for n in numbers]


def test_several_seeds_have_bands_from_the_lowest_mean_to_the_highest(drawn):
    points = [
        TrainedOn(
            "adapter",
            patients,
            [
                {"case_id": f"p{case}", "seed": seed, "dice/WT": 0.4 + 0.1 * seed + 0.02 * case}
                for seed in range(seeds)
                for case in range(3)
            ],
        )
        for patients, seeds in ((2, 3), (4, 2), (8, 1))
    ]
    figure = drawn(points, COLUMNS[:1])
    assert figure.axes[0].get_lines()[0].get_ydata() == pytest.approx([0.52, 0.47, 0.42])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    ends = {
        patients: (band[band[:, 0] == patients, 1].min(), band[band[:, 0] == patients, 1].max())
        for patients in (2, 4, 8)
    }
    assert ends == {
        2: pytest.approx((0.42, 0.62)),
        4: pytest.approx((0.42, 0.52)),
        8: pytest.approx((0.42, 0.42)),
    }
    assert "among 3 seeds" in figure.legends[0].get_title().get_text()
