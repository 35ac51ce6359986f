"""Systems of a benchmark that differ in the number of patients they were trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.figures.patient_number import TrainedOn
from evaluation.statistics.comparison import Row

OPTION = "data.train_patients"


def trained_on(
    systems: Sequence[Mapping[str, Any]], rows: Mapping[str, Sequence[Row]]
) -> list[TrainedOn]:
    """Return the points of a curve over the number of patients; none if the systems have one alone.

    A line is named by the system's `line` in the benchmark's file, or by its experiment.

    Args:
        systems: the systems of ``plan.json``, with the options of each.
        rows: rows of ``per_case.csv`` by system.
    """
    found = []
    for system in systems:
        number = _number(system["options"])
        if number is not None and system["system"] in rows:
            line = str(system.get("line") or Path(system["file"]).stem)
            found.append(TrainedOn(line, number, rows[system["system"]]))
    return found if len({point.patients for point in found}) > 1 else []


def _number(words: Sequence[str]) -> int | None:
    for word in words:
        name, _, value = word.removeprefix("--").replace("init_args.", "").partition("=")
        if name == OPTION and value.isdigit():
            return int(value)
    return None
