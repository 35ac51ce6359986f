import pytest

from datamodules.slices.selection import check_selection, draw_empty, select
from errors import InputError

TUMOUR = [0, 0, 3, 9, 9, 4, 0, 1, 0]


@pytest.mark.parametrize(
    ("rule", "number", "expected"),
    [
        ("largest", 3, [3]),  # of two equals the lower
        ("all_tumour", 3, [2, 3, 4, 5, 7]),
        ("n_per_patient", 1, [4]),
        ("n_per_patient", 2, [3, 5]),
        ("n_per_patient", 3, [2, 4, 7]),
        ("n_per_patient", 5, [2, 3, 4, 5, 7]),
        ("n_per_patient", 50, [2, 3, 4, 5, 7]),
    ],
)
def test_rules_on_a_label_made_by_hand(rule, number, expected):
    assert select(TUMOUR, rule, number) == expected


@pytest.mark.parametrize("rule", ["largest", "n_per_patient", "all_tumour"])
def test_no_tumour_no_slice(rule):
    assert select([0, 0, 0], rule, 3) == []
    assert select([], rule, 3) == []


def test_spread_slices_are_evenly_apart():
    chosen = select([1] * 100, "n_per_patient", 4)
    assert chosen == [12, 37, 62, 87]


TUMOURS = {"a": [0, 5, 5, 0, 0], "b": [0, 0, 0, 0, 7]}
BRAINS = {"a": [0, 9, 9, 9, 9], "b": [9, 9, 9, 9, 9]}


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (0.25, 1), (0.5, 3), (0.6, 4), (0.8, 6)])
def test_tumour_free_slices_make_up_their_share(fraction, count):
    empty = draw_empty(TUMOURS, BRAINS, 3, fraction, 0)
    assert len(empty) == count == len(set(empty))
    assert all(not TUMOURS[case][index] and BRAINS[case][index] for case, index in empty)


def test_the_draw_of_empty_slices_follows_seed_and_name_only():
    first = draw_empty(TUMOURS, BRAINS, 3, 0.4, 0)
    turned = dict(reversed(TUMOURS.items()))
    assert draw_empty(turned, BRAINS, 3, 0.4, 0) == first
    assert len({tuple(draw_empty(TUMOURS, BRAINS, 3, 0.4, seed)) for seed in range(9)}) > 1


@pytest.mark.parametrize(
    ("number", "fraction", "message"),
    [(0, 0.2, "slices_per_patient"), (3, 1.0, "empty_fraction"), (3, -0.1, "empty_fraction")],
)
def test_numbers_without_sense_are_refused(number, fraction, message):
    with pytest.raises(InputError, match=message):
        check_selection(number, fraction)
