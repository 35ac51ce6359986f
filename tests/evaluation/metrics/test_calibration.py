"""Calibration against torchmetrics and scikit-learn, by hand, and added up."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from evaluation.figures.reliability import calibration_table, reliability_png
from evaluation.metrics.calibration import BINS, DOMAIN_FROM, Reliability, measure_reliability
from evaluation.tables.provenance import Provenance


def patient(seed, shape=(12, 13, 14), bias=0.0):
    generator = np.random.default_rng(seed)
    probability = generator.beta(0.3, 0.5, shape).astype(np.float32)
    return probability, generator.random(shape) < np.clip(probability + bias, 0, 1)


@pytest.mark.parametrize("bias", [0.0, -0.2])
def test_error_and_bins_are_those_of_torchmetrics_and_sklearn(bias):
    probability, reference = patient(1, bias=bias)
    counts = measure_reliability(probability, reference)
    domain = probability >= DOMAIN_FROM
    expected = binary_calibration_error(
        torch.from_numpy(probability[domain]), torch.from_numpy(reference[domain]), n_bins=BINS
    )
    assert counts.ece == pytest.approx(float(expected), abs=1e-6)
    observed, mean = calibration_curve(reference[domain], probability[domain], n_bins=BINS)
    voxels = counts.voxels[1:]
    assert counts.present[1:] / voxels == pytest.approx(observed)
    assert counts.probability[1:] / voxels == pytest.approx(mean, rel=1e-6)
    assert counts.voxels.sum() == probability.size
    assert counts.probability.sum() == pytest.approx(probability.sum(dtype=np.float64))


def test_by_hand():
    probability = np.array([0.0, 0.009, 0.05, 0.05, 0.25, 0.5, 0.95, 1.0])
    reference = np.array([0, 1, 0, 0, 1, 0, 1, 0], dtype=bool)
    counts = measure_reliability(probability, reference)
    assert counts.voxels.tolist() == [2, 2, 0, 1, 0, 0, 1, 0, 0, 0, 2]
    # gaps: 2 x 0.05 - 0, 1 - 0.25, 0.5, |1 - 1.95|, over six voxels of the domain
    assert counts.ece == pytest.approx((0.1 + 0.75 + 0.5 + 0.95) / 6)
    assert counts.overlooked == pytest.approx(1 / 3)


def test_a_hundredth_of_any_precision_lies_in_the_domain():
    for precision in (np.float32, np.float64):
        counts = measure_reliability(np.full(4, 0.01, precision), np.ones(4, bool))
        assert counts.voxels[:2].tolist() == [0, 4]
        assert counts.overlooked == 0


def test_counts_of_patients_add_up_in_any_order_and_through_a_table():
    pairs = [patient(seed, (5, 6, 4 + seed)) for seed in range(3)]
    together = measure_reliability(
        np.concatenate([p.ravel() for p, _ in pairs]), np.concatenate([r.ravel() for _, r in pairs])
    )
    first, second, third = (measure_reliability(*pair) for pair in pairs)
    rows = [row for part in (third, first, second) for row in part.rows()]
    for total in (first + second + third, Reliability.from_rows(rows)):
        assert total.voxels.tolist() == together.voxels.tolist()
        assert total.present.tolist() == together.present.tolist()
        assert total.ece == pytest.approx(together.ece, rel=1e-9)


def test_nothing_to_measure_and_what_is_no_probability():
    none = measure_reliability(np.zeros((2, 2)), np.zeros((2, 2), bool))
    assert np.isnan(none.ece)
    assert np.isnan(none.overlooked)
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            measure_reliability(np.full((2, 2), wrong), np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="boolean"):
        measure_reliability(np.zeros((2, 2)), np.zeros((2, 2)))


def test_diagram_is_drawn_also_of_an_empty_region(tmp_path):
    import matplotlib.image

    good, late = patient(1), patient(2, bias=-0.2)
    empty = measure_reliability(np.zeros((2, 2)), np.zeros((2, 2), bool))
    counts = {"WT": measure_reliability(*good), "TC": measure_reliability(*late), "ET": empty}
    reliability_png(counts, tmp_path / "new" / "reliability.png", "Two patients")
    picture = matplotlib.image.imread(tmp_path / "new" / "reliability.png")
    assert picture.shape[1] == round(3.9 * 3 * 120)
    assert picture[..., :3].std() > 0.05
    assert np.median(picture[..., :3]) == 1  # white paper, as the page and the printed one


def test_ticks_of_the_counts_do_not_lie_on_each_other(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "evaluation.figures.reliability.save_png", lambda figure, _: figures.append(figure)
    )
    counts = measure_reliability(*patient(1, shape=(40, 40, 40)))
    reliability_png({"WT": counts}, tmp_path / "reliability.png")
    (figure,) = figures
    figure.canvas.draw()
    bars = figure.axes[1]
    boxes = [label.get_window_extent() for label in bars.get_yticklabels()]
    assert [tick > 0 for tick in bars.get_yticks()] == [False, True, True, True, True]
    assert all(below.y1 < above.y0 for below, above in pairwise(boxes))


def test_a_table_of_errors_says_where_it_is_from():
    counts = {"a": {"WT": measure_reliability(*patient(1))}}
    table = calibration_table(counts, provenance=Provenance(cohort="phantom"), patients=3)
    assert table.footnotes[0] == "data: phantom, 3 patients"
