"""Parameters of a W&B sweep file as distributions of Optuna, and the values of its draws."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from errors import InputError
from studies.benchmarks.benchmark_file import only_keys

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

ENDS = ("min", "max")
RANGES = {
    "uniform": ENDS,
    "log_uniform": ENDS,  # natural logarithms
    "log_uniform_values": ENDS,
    "normal": ("mu", "sigma"),
    "log_normal": ("mu", "sigma"),
}
# W&B's distributions with the keys of each; those called q_* round to multiples of q
KEYS = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ENDS,
    **RANGES,
    **{f"q_{name}": (*keys, "q") for name, keys in RANGES.items()},
}
SMALLEST = 1e-12  # cut off at both ends of a draw by cumulative probability
DIGITS = 12  # decimal places of a drawn float


def read_parameter(described: Any, where: str) -> dict[str, Any]:
    """Check a parameter of a sweep file and add the name of its distribution.

    Args:
        described: the parameter as written.
        where: file and parameter, for messages.

    Raises:
        InputError: when a key or value is wrong, naming it.
    """
    if not isinstance(described, Mapping):
        raise InputError(f"{where} is {described!r}, expected value, values, or min and max.")
    found = {"distribution": _default(described), **described}
    kind = found["distribution"]
    if kind not in KEYS:
        raise InputError(f"{where} has the distribution {kind}, expected one of {', '.join(KEYS)}.")
    only_keys(found, ("distribution", *KEYS[kind]), where)
    if "values" in KEYS[kind]:
        _check_choices(found, where)
    if "min" in KEYS[kind]:
        _check_ends(found, where)
    for name in ("q", "sigma"):
        size = found.get(name, 1.0)
        if not isinstance(size, int | float) or size <= 0:
            raise InputError(f"{where}: {name} is {size!r}, expected a number above 0.")
    if not isinstance(found.get("mu", 0.0), int | float):
        raise InputError(f"{where}: mu is {found['mu']!r}, expected a number.")
    return found


def _default(described: Mapping[str, Any]) -> str:
    """Return W&B's default distribution for the keys of a parameter."""
    if "value" in described:
        return "constant"
    if "values" in described:
        weighted = "probabilities" in described
        return "categorical_w_probabilities" if weighted else "categorical"
    whole = all(isinstance(described.get(end), int) for end in ENDS)
    return "int_uniform" if whole else "uniform"


def _check_choices(found: Mapping[str, Any], where: str) -> None:
    values, shares = found.get("values"), found.get("probabilities", [])
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: values is {values!r}, expected a list of them.")
    if "probabilities" in KEYS[found["distribution"]]:
        numbers = isinstance(shares, list) and all(isinstance(x, int | float) for x in shares)
        if not numbers or len(shares) != len(values) or not math.isclose(sum(shares), 1.0):
            raise InputError(
                f"{where}: probabilities is {shares!r}, expected one for each of {len(values)} "
                "values, together 1."
            )


def _check_ends(found: Mapping[str, Any], where: str) -> None:
    kind: str = found["distribution"]
    ends: list[Any] = [found.get(end) for end in ENDS]
    types = int if kind == "int_uniform" else int | float
    # YAML reads 1e-4 as text: a float needs its point
    fits = all(isinstance(end, types) for end in ends) and ends[0] < ends[1]
    if not fits or (kind.endswith("log_uniform_values") and ends[0] <= 0):
        least = " above 0" if kind.endswith("values") else ""
        whole = ", whole numbers" if kind == "int_uniform" else ""
        raise InputError(
            f"{where} ranges from {ends[0]} to {ends[1]}, expected min below max{least}{whole}."
        )


def make_study(**settings: Any) -> "Study":
    """Create or load a study by `optuna.create_study`, without Optuna's log messages."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(**settings)


def choices(described: Mapping[str, Any]) -> list[str] | None:
    """Return the distinct values of a parameter as JSON texts; None for a range."""
    values = [described["value"]] if "value" in described else described.get("values")
    return None if values is None else list(dict.fromkeys(json.dumps(value) for value in values))


def distribution(described: Mapping[str, Any]) -> "BaseDistribution":
    """Return the Optuna distribution to draw a parameter from.

    Optuna has no weighted choice and no normal distribution: for these it draws the cumulative
    probability of the value, uniformly between 0 and 1.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    kind = described["distribution"].removeprefix("q_")
    if kind == "int_uniform":
        return IntDistribution(described["min"], described["max"])
    if kind.endswith("normal") or _shares(described):
        return FloatDistribution(SMALLEST, 1 - SMALLEST)
    if texts := choices(described):
        return CategoricalDistribution(texts)
    low, high = (float(described[end]) for end in ENDS)
    if kind == "log_uniform":
        low, high = math.exp(low), math.exp(high)
    return FloatDistribution(low, high, log=kind.startswith("log"))


def value(described: Mapping[str, Any], drawn: Any) -> Any:
    """Convert a draw from `distribution` to the value of a parameter."""
    kind = described["distribution"]
    if isinstance(drawn, str):
        return json.loads(drawn)
    if kind == "int_uniform":
        return int(drawn)
    if shares := _shares(described):
        reached = np.searchsorted(np.cumsum(shares), drawn, side="right")
        return described["values"][min(int(reached), int(np.flatnonzero(shares)[-1]))]
    if kind.endswith("normal"):
        from scipy.stats import norm

        drawn = norm.ppf(drawn, described.get("mu", 0.0), described.get("sigma", 1.0))
        drawn = math.exp(drawn) if kind.endswith("log_normal") else drawn
    if kind.startswith("q_"):
        step = described.get("q", 1.0)
        drawn = round(drawn / step) * step
    return round(float(drawn), DIGITS)


def _shares(described: Mapping[str, Any]) -> list[float]:
    """Return the probabilities of listed values; empty if none are given and no value is repeated.

    A value that is listed twice is twice as likely.
    """
    values = described.get("values", [])
    if "probabilities" in described:
        return list(described["probabilities"])
    twice = len(choices(described) or []) < len(values)
    return [1 / len(values)] * len(values) if twice else []
