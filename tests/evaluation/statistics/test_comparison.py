"""Statistics over patients: by hand, against scipy and statsmodels, and where nothing varies."""

import math
import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats

from errors import InputError
from evaluation.statistics.columns import ScoreColumn, score_columns
from evaluation.statistics.comparison import (
    common_patients,
    compare,
    holm,
    patient_scores,
    power_note,
    signed_rank,
    summarise,
)

WT = ScoreColumn.parse("dice/WT")
TC = ScoreColumn.parse("dice/TC")
FAR = ScoreColumn.parse("hd95/WT")
NAN = math.nan


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rows(*values, column="dice/WT", **more):
    return [{"case_id": f"p{index}", column: value, **more} for index, value in enumerate(values)]


def test_seeds_are_averaged_within_a_patient_before_patients_are():
    # p0 was scored by two seeds, p1 by one: the mean over patients is not the mean over rows
    scored = [*rows(0.2, 0.9, seed=0), *rows(0.4, seed=1)]
    assert patient_scores(scored, WT) == pytest.approx({"p0": 0.3, "p1": 0.9})
    assert summarise(patient_scores(scored, WT)).mean == pytest.approx(0.6)


def test_time_points_of_one_patient_are_one_patient():
    scored = [
        {"case_id": "x-000", "patient": "x", "dice/WT": 0.2},
        {"case_id": "x-001", "patient": "x", "dice/WT": 0.6},
    ]
    assert patient_scores(scored, WT) == {"x": pytest.approx(0.4)}


def test_a_seed_without_a_score_leaves_the_others_and_a_patient_without_any_is_missing():
    scored = [*rows(NAN, NAN, seed=0), *rows(0.5, seed=1), {"case_id": "p2"}]
    summary = summarise(patient_scores(scored, WT))
    assert (summary.n, summary.missing, summary.mean) == (1, 2, 0.5)


def test_volume_errors_of_opposite_sign_do_not_cancel():
    column = ScoreColumn.parse("volume_error_ml/WT")
    scored = [*rows(3.0, column=column.key, seed=0), *rows(-5.0, column=column.key, seed=1)]
    assert patient_scores(scored, column) == {"p0": 4.0}


def test_summary_by_hand_and_its_interval_is_scipys():
    values = [0.9, 0.7, 0.65, 0.8, 0.97, 0.2]
    found = summarise(dict(enumerate(values)))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.median == pytest.approx(0.75)
    wide = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(99)).confidence_interval
    assert found.low == pytest.approx(wide.low, abs=0.02)
    assert found.high == pytest.approx(wide.high, abs=0.02)
    assert summarise(dict(enumerate(values))) == found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), (0, NAN, NAN, NAN, NAN)),
        ((0.5,), (1, 0.5, NAN, NAN, NAN)),
        ((0.7, 0.7, 0.7), (3, 0.7, 0.0, 0.7, 0.7)),
        ((0.1 + 0.2, 0.3), (2, 0.3, 0.0, 0.3, 0.3)),
        ((1.0, math.inf), (2, math.inf, NAN, NAN, NAN)),
    ],
)
def test_where_nothing_varies_the_answer_is_honest(values, expected):
    found = summarise(dict(enumerate(values)))
    answer = (found.n, found.mean, found.sd, found.low, found.high)
    assert answer == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_an_interval_exists_for_two_patients_and_for_one_outlier():
    two = summarise({"a": 0.5, "b": 0.6})
    assert 0.5 <= two.low < 0.55 < two.high <= 0.6
    skewed = summarise({str(i): 373.13 if i == 0 else 5.0 for i in range(20)})
    assert 5.0 <= skewed.low < skewed.mean < skewed.high


@pytest.mark.parametrize("size", [1, 2, 6, 13, 50, 51, 120])
def test_signed_rank_is_scipys_without_ties(size):
    differences = np.random.default_rng(size).normal(0.3, 1, size)
    method = "exact" if size <= 50 else "asymptotic"
    expected = stats.wilcoxon(differences, method=method).pvalue
    assert signed_rank(differences)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_signed_rank_with_ties_and_zeros_is_every_sign_tried(seed):
    differences = np.random.default_rng(seed).integers(-2, 4, 9).astype(float)
    ranks = stats.rankdata(np.abs(differences)) * (differences != 0)
    sums = np.array([np.dot(ranks, signs) for signs in product((0, 1), repeat=9)])
    positive = ranks[differences > 0].sum()
    expected = min(1, 2 * min((sums <= positive).mean(), (sums >= positive).mean()))
    assert signed_rank(differences)[0] == pytest.approx(expected)


def test_signed_rank_is_exact_where_few_of_many_pairs_differ():
    assert signed_rank([0.0] * 55 + [1.0, 2.0, 3.0, 4.0, 5.0])[0] == pytest.approx(2 / 2**5)


def test_rounding_of_means_neither_breaks_ties_nor_hides_equality():
    assert signed_rank([0.1 + 0.2 - 0.3, 0.0]) == (1.0, 0.0)
    assert signed_rank([0.3 - 0.2, 0.1, -0.1]) == signed_rank([1.0, 1.0, -1.0])


def test_effect_by_hand_and_equal_pairs_count_for_neither_side():
    # ranks of |d| = 1, 2, 3, 4: (1 + 2 + 4 - 3) / 10
    assert signed_rank([0.1, 0.2, -0.3, 0.4])[1] == pytest.approx(0.4)
    # two zeros share ranks 1 and 2: (3 + 4) / 10
    assert signed_rank([0.0, 0.0, 0.1, 0.2])[1] == pytest.approx(0.7)


def test_equal_systems_differ_by_nothing():
    systems = {"a": rows(0.5, 0.6, 0.7), "b": rows(0.5, 0.6, 0.7)}
    (found,) = compare(systems, [WT], "a")
    assert (found.p, found.p_holm, found.effect, found.difference) == (1.0, 1.0, 0.0, 0.0)
    assert (found.n, found.equal, found.dropped) == (3, 3, 0)
    assert not found.significant


def test_one_patient_can_be_compared_and_proves_nothing():
    (found,) = compare({"a": rows(0.5), "b": rows(0.9)}, [WT], "a")
    assert (found.n, found.p, found.effect) == (1, 1.0, 1.0)
    assert found.difference == pytest.approx(0.4)


def test_better_is_positive_in_either_direction_of_the_measure():
    high = compare({"a": rows(0.5, 0.6), "b": rows(0.7, 0.9)}, [WT], "a")[0]
    far = {
        "a": rows(5.0, 6.0, column="hd95/WT"),
        "b": rows(7.0, 9.0, column="hd95/WT"),
    }
    low = compare(far, [FAR], "a")[0]
    assert (high.effect, low.effect) == (1.0, -1.0)
    assert low.difference == pytest.approx(2.5)


def test_pairs_without_a_score_are_dropped_and_counted():
    systems = {"a": rows(0.5, NAN, 0.7, NAN), "b": rows(0.6, 0.6, NAN, NAN)}
    (found,) = compare(systems, [WT], "a")
    assert (found.n, found.dropped) == (1, 3)
    (nothing,) = compare({"a": rows(NAN), "b": rows(0.5)}, [WT], "a")
    assert (nothing.n, nothing.dropped) == (0, 1)
    assert math.isnan(nothing.p_holm)
    assert not nothing.significant


def test_two_infinite_distances_are_equal():
    systems = {
        "a": rows(math.inf, math.inf, 3.0, column="hd95/WT"),
        "b": rows(math.inf, 4.0, 3.0, column="hd95/WT"),
    }
    (found,) = compare(systems, [FAR], "a")
    assert (found.n, found.equal) == (3, 2)
    assert found.effect > 0


def test_holm_is_taken_over_regions_and_systems_of_one_measure():
    generator = np.random.default_rng(3)
    systems = {
        name: [
            {
                "case_id": str(case),
                "dice/WT": base + gain + generator.normal(0, 0.02),
                "dice/TC": base + gain / 2 + generator.normal(0, 0.02),
                "hd95/WT": 5 - 20 * gain + generator.normal(),
            }
            for case, base in enumerate(np.linspace(0.6, 0.8, 12))
        ]
        for name, gain in (("a", 0.0), ("b", 0.02), ("c", 0.05))
    }
    found = compare(systems, [WT, TC, FAR], "a")
    family = sorted((item.p, item.p_holm) for item in found if item.column.measure.name == "dice")
    raised = [min(1.0, p * (4 - place)) for place, (p, _) in enumerate(family)]
    assert [p for _, p in family] == pytest.approx(np.maximum.accumulate(raised))
    alone = sorted((item.p, item.p_holm) for item in found if item.column is FAR)
    assert alone[0][1] == pytest.approx(2 * alone[0][0])


def test_systems_of_other_patients_are_refused_by_name_or_reduced():
    systems = {"a": rows(0.5, 0.6, 0.7), "b": rows(0.5, 0.6)}
    with pytest.raises(InputError, match=r"a and b .* p2 only in .* \(2 are common"):
        compare(systems, [WT], "a")
    assert compare(common_patients(systems), [WT], "a")[0].n == 2
    with pytest.raises(InputError, match="No patient"):
        common_patients({"a": rows(0.5), "b": [{"case_id": "other", "dice/WT": 0.5}]})


def test_a_reference_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"'c' .* one of a, b"):
        compare({"a": rows(0.5), "b": rows(0.6)}, [WT], "c")


def test_few_patients_are_said_to_prove_nothing():
    assert "0.0625" in power_note(5, 1)[0]
    assert power_note(6, 1) == []
    assert power_note(8, 6) == []  # 6 / 128
    assert "p is 0.0078, after Holm 0.07" in power_note(8, 9)[0]
    assert power_note(0, 0) == []


def test_columns_are_ordered_and_unknown_metrics_refused():
    names = ["case_id", "hd95/WT", "dice/TC", "dice/WT", "slices/dice/WT", "volume_ml/WT"]
    keys = [column.key for column in score_columns(names)]
    assert keys == ["slices/dice/WT", "dice/WT", "dice/TC", "hd95/WT"]
    assert [column.key for column in score_columns(names, ["hd95"])] == ["hd95/WT"]
    assert [c.key for c in score_columns(names, ["slices/dice"])] == ["slices/dice/WT"]
    assert [c.key for c in score_columns(names, ["dice/TC"])] == ["dice/TC"]
    with pytest.raises(InputError, match=r"'nsd'.*slices/dice"):
        score_columns(names, ["nsd"])


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 30):
        p = rng.uniform(0, 0.2, size).round(2).tolist()  # some of them equal
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist(), rel=1e-12)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
