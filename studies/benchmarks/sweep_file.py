"""A W&B sweep file, read so that its trials can be run without an account."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from errors import InputError
from studies.benchmarks.benchmark_file import only_keys, option_text, read_mapping
from studies.jobs.cost_table import Trial
from studies.settings.command_line import CommandLine, find_config

KEYS = (
    "program",
    "command",
    "method",
    "metric",
    "parameters",
    "name",
    "description",
    "project",
    "entity",
    "run_cap",
)
PARAMETER_KEYS = (
    "value",
    "values",
    "probabilities",
    "distribution",
    "min",
    "max",
    "q",
    "mu",
    "sigma",
)
MACROS = ("${env}", "${interpreter}", "${program}", "${args}")

Range = Mapping[str, Any]
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, Range], Any]] = {
    "uniform": lambda rng, at: rng.uniform(at["min"], at["max"]),
    "int_uniform": lambda rng, at: rng.integers(at["min"], at["max"], endpoint=True),
    "log_uniform_values": lambda rng, at: _log_uniform(rng, at),
    "q_uniform": lambda rng, at: _steps(rng.uniform(at["min"], at["max"]), at),
    "q_log_uniform_values": lambda rng, at: _steps(_log_uniform(rng, at), at),
    "normal": lambda rng, at: rng.normal(at.get("mu", 0.0), at.get("sigma", 1.0)),
}


@dataclass
class Sweep:
    """What a sweep file says.

    Args:
        name: of the sweep and its folder.
        file: where it was read.
        line: the command line of ``fit`` that parameters are added to.
        method: grid or random.
        parameters: as written, checked.
        metric: name that trials are ordered by.
        maximise: whether more of it is better.
        run_cap: the most trials, where the file says one.
    """

    name: str
    file: Path
    line: CommandLine
    method: str
    parameters: dict[str, dict[str, Any]]
    metric: str
    maximise: bool
    run_cap: int | None

    def trials(self, count: int | None, seed: int) -> list[Trial]:
        """Return the trials: all of a grid, or the first `count` of a random sweep.

        Trial i of a random sweep is a function of seed and i, so a larger count goes on from a
        smaller one.

        Raises:
            InputError: when nobody says how many random trials are wanted.
        """
        count = count if count is not None else self.run_cap
        if self.method == "grid":
            names = list(self.parameters)
            choices = [self._choices(name) for name in names]
            products = itertools.product(*choices)
            found = [dict(zip(names, values, strict=True)) for values in products]
        elif count is None:
            raise InputError(f"{self.file} draws at random: say how many trials with --count.")
        else:
            found = [self._draw(number, seed) for number in range(count)]
        return [Trial(number, values) for number, values in enumerate(found[:count])]

    def _choices(self, name: str) -> list[Any]:
        described = self.parameters[name]
        values = [described["value"]] if "value" in described else described.get("values")
        if not values:
            raise InputError(f"{self.file}: the grid needs values for {name}, not a range.")
        return list(values)

    def _draw(self, number: int, seed: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, number))
        found = {}
        for name, described in self.parameters.items():
            if "value" in described or "values" in described:
                values = self._choices(name)
                found[name] = values[rng.choice(len(values), p=described.get("probabilities"))]
                continue
            value = DISTRIBUTIONS[described["distribution"]](rng, described)
            found[name] = int(value) if isinstance(value, np.integer) else round(float(value), 12)
        return found

    def fit_line(self, trial: Trial, rest: CommandLine) -> CommandLine:
        """Return the command line of a trial.

        Args:
            trial: its parameters.
            rest: overlays and options of the command line, which win.
        """
        words = [f"--{name}={option_text(value)}" for name, value in trial.parameters.items()]
        options = [*self.line.options, *CommandLine.parse(words).options, *rest.options]
        return CommandLine([*self.line.configs, *rest.configs], options)


def read_sweep(file: str) -> Sweep:
    """Read a W&B sweep file whose command is ``lightning fit``.

    Raises:
        InputError: naming the key that only W&B's server could follow, or that is wrong.
    """
    path = find_config(file)
    content = read_mapping(path)
    only_keys(content, KEYS, str(path))
    method = content.get("method")
    if method not in ("grid", "random"):
        raise InputError(
            f"{path}: method is {method}, expected grid or random; other methods ask W&B's server, "
            "use `wandb sweep` and `wandb agent` for them."
        )
    parameters = content.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        raise InputError(f"{path} has no parameters: expected names such as data.batch_size.")
    metric = content.get("metric") or {}
    only_keys(metric, ("name", "goal", "target"), f"{path}: metric")
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in ("minimize", "maximize"):
        raise InputError(f"{path}: metric.goal is {goal}, expected minimize or maximize.")
    return Sweep(
        name=path.stem,
        file=path,
        line=_line(content.get("command"), path),
        method=method,
        parameters={name: _parameter(name, value, path) for name, value in parameters.items()},
        metric=str(metric.get("name", "val/dice/mean")),
        maximise=goal == "maximize" or not metric,
        run_cap=content.get("run_cap"),
    )


def _line(command: Any, path: Path) -> CommandLine:
    """Return the command line of ``fit`` inside a sweep's command."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "fit" not in words or "${args}" not in words:
        raise InputError(
            f"{path}: command is {command}, expected a list that calls fit with its --config and "
            "${args}."
        )
    line = CommandLine.parse([w for w in words[words.index("fit") + 1 :] if w not in MACROS])
    line.check()
    return line


def _parameter(name: str, described: Any, path: Path) -> dict[str, Any]:
    where = f"{path}: parameters: {name}"
    if not isinstance(described, Mapping):
        raise InputError(f"{where} is {described!r}, expected value, values, or min and max.")
    only_keys(described, PARAMETER_KEYS, where)
    found = dict(described)
    if "value" in found or "values" in found:
        return found
    whole = isinstance(found.get("min"), int) and isinstance(found.get("max"), int)
    found.setdefault("distribution", "int_uniform" if whole else "uniform")
    if found["distribution"] not in DISTRIBUTIONS:
        raise InputError(
            f"{where} has the distribution {found['distribution']}, expected one of "
            f"{', '.join(DISTRIBUTIONS)}."
        )
    ends = [found.get("min"), found.get("max")]
    if found["distribution"] != "normal" and not _is_range(ends, found["distribution"]):
        raise InputError(f"{where} ranges from {ends[0]} to {ends[1]}, expected min below max.")
    return found


def _is_range(ends: list[Any], distribution: str) -> bool:
    # YAML reads 1e-4 as text: a float needs its point
    if not all(isinstance(end, int | float) for end in ends) or not ends[0] < ends[1]:
        return False
    return "log" not in distribution or ends[0] > 0


def _log_uniform(rng: np.random.Generator, at: Range) -> float:
    return math.exp(rng.uniform(math.log(at["min"]), math.log(at["max"])))


def _steps(value: float, at: Range) -> float:
    q = at.get("q", 1.0)
    return float(round(value / q) * q)
