"""Optuna's draws for W&B's distributions, compared with SciPy's distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from studies.benchmarks.search_space import (
    choices,
    distribution,
    make_study,
    read_parameter,
    value,
)

DRAWS = 600


def drawn(described, count=DRAWS):
    """Return values of a parameter from a study with one seed."""
    from optuna.samplers import RandomSampler

    checked = read_parameter(described, "x")
    study = make_study(sampler=RandomSampler(seed=0))
    space = {"x": distribution(checked)}
    return [value(checked, study.ask(space).params["x"]) for _ in range(count)]


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"min": -1.0, "max": 3.0}, stats.uniform(-1, 4)),
        (
            {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
            stats.loguniform(1e-4, 0.1),
        ),
        (
            {"distribution": "log_uniform", "min": -3, "max": 1},
            stats.loguniform(math.exp(-3), math.exp(1)),
        ),
        ({"distribution": "normal", "mu": 2.0, "sigma": 0.5}, stats.norm(2, 0.5)),
        ({"distribution": "normal"}, stats.norm()),
        (
            {"distribution": "log_normal", "mu": 1.0, "sigma": 0.5},
            stats.lognorm(0.5, scale=math.e),
        ),
    ],
    ids=lambda part: part.get("distribution", "uniform") if isinstance(part, dict) else "",
)
def test_continuous_ones(described, expected):
    assert stats.kstest(drawn(described), expected.cdf).pvalue > 0.05


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"min": 1, "max": 4}, {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}),
        ({"values": ["a", None, [2, 2]]}, {"a": 1 / 3, None: 1 / 3, (2, 2): 1 / 3}),
        ({"values": [3, 5, 7], "probabilities": [0.2, 0.0, 0.8]}, {3: 0.2, 7: 0.8}),
        ({"values": [1, 1, 1, 2]}, {1: 0.75, 2: 0.25}),
        (
            {"distribution": "q_uniform", "min": 0, "max": 30, "q": 10},
            {0.0: 1 / 6, 10.0: 1 / 3, 20.0: 1 / 3, 30.0: 1 / 6},
        ),
        (
            {"distribution": "q_log_uniform_values", "min": 1, "max": 8, "q": 4},
            # log(x) is uniform between 0 and log 8; rounding changes at log 2 and log 6
            {0.0: 1 / 3, 4.0: math.log(3) / math.log(8), 8.0: math.log(8 / 6) / math.log(8)},
        ),
        (
            {"distribution": "q_normal", "mu": 0, "sigma": 4, "q": 10},
            {-10.0: stats.norm.cdf(-1.25), 0.0: 1 - 2 * stats.norm.cdf(-1.25), 10.0: 0.1056},
        ),
    ],
    ids=str,
)
def test_discrete_ones(described, expected):
    found = [tuple(one) if isinstance(one, list) else one for one in drawn(described)]
    assert set(found) == set(expected)
    counts = [found.count(one) for one in expected]
    shares = np.array(list(expected.values()))
    assert stats.chisquare(counts, shares / shares.sum() * DRAWS).pvalue > 0.05


def test_values_keep_their_types():
    described = read_parameter({"values": [1, True, 1.0, "1", 0, False]}, "x")
    texts = choices(described)
    assert texts == ["1", "true", "1.0", '"1"', "0", "false"]
    assert [type(value(described, text)) for text in texts] == [int, bool, float, str, int, bool]
