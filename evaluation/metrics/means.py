"""Means over the patients that have a value."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def counted(values: Sequence[float]) -> list[float]:
    """Return the values that are numbers: NaN means that a rule gives a patient no score."""
    return [float(value) for value in values if not math.isnan(value)]


def nan_mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers; NaN where none is."""
    numbers = counted(values)
    return fmean(numbers) if numbers else math.nan


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return a column of ``per_case.csv`` without the patients that have no value in it."""
    return counted([float(row[name]) for row in rows if name in row])
