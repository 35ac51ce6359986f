"""Read a W&B sweep file, to run its trials without an account."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from errors import InputError
from studies.benchmarks.benchmark_file import only_keys, option_text, read_mapping
from studies.benchmarks.search_space import (
    choices,
    distribution,
    make_study,
    read_parameter,
    value,
)
from studies.jobs.cost_table import Trial
from studies.runs.run import identity_hash
from studies.settings.command_line import CommandLine, find_config

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

METHODS = ("grid", "random", "bayes")
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
    "early_terminate",
)
MACROS = ("${env}", "${interpreter}", "${program}", "${args}")
STARTUP = 10  # random trials of TPE, before scores decide


@dataclass(frozen=True)
class EarlyStop:
    """Rule for stopping the worse trials early, called hyperband by W&B.

    A trial may be stopped after first, first * eta, first * eta^2 ... scores, one per validation.
    Of the trials with as many scores, the best 1/eta go on.

    Args:
        first: number of scores before a trial may be stopped.
        eta: factor between the numbers of scores.
        last: number of scores after which no trial is stopped; None: no such number.
        strict: whether trials are ranked by their latest score instead of their best so far.
    """

    first: int
    eta: int
    last: int | None
    strict: bool


@dataclass
class Sweep:
    """The content of a sweep file.

    Args:
        name: name of the sweep and its folder.
        file: path of the file.
        line: the command line of ``fit`` that parameters are added to.
        method: grid, random or bayes.
        parameters: the parameters as written, checked.
        metric: name of the metric that ranks trials.
        maximise: whether a larger metric is better.
        run_cap: most trials; None: not limited by the file.
        target: value of the metric at which no further trial begins.
        early_stop: rule for stopping the worse trials; None: none.
    """

    name: str
    file: Path
    line: CommandLine
    method: str
    parameters: dict[str, dict[str, Any]]
    metric: str
    maximise: bool
    run_cap: int | None
    target: float | None = None
    early_stop: EarlyStop | None = None

    def total(self, count: int | None) -> int:
        """Return the number of trials: `count`, the file's `run_cap`, or all of a grid.

        Raises:
            InputError: when neither file nor command line limits random or bayes trials.
        """
        count = count if count is not None else self.run_cap
        if self.method == "grid":
            sizes = [len(self._choices(name)) for name in self.parameters]
            return min(math.prod(sizes), count or math.prod(sizes))
        if count is None:
            raise InputError(
                f"{self.file} has the method {self.method}, which never ends by itself: say how "
                "many trials with --count."
            )
        return count

    def draws(self, count: int | None, seed: int) -> list[dict[str, Any]]:
        """Return Optuna's draws for all trials that depend on no score.

        With bayes these are the first `STARTUP` trials, otherwise all. Draw i is a function of seed
        and i, so a larger count continues a smaller one; a grid varies its last parameter fastest.
        """
        from optuna.samplers import GridSampler

        total, space = self.total(count), self.space()
        if self.method != "grid":
            study = make_study()
            found = []
            for number in range(min(total, STARTUP) if self.method == "bayes" else total):
                study.sampler = self.sampler(seed, number)
                found.append(study.ask(space).params)
            return found
        listed = {name: self._choices(name) for name in space}
        study = make_study(sampler=GridSampler(listed))
        grid = [study.ask(space).params for _ in range(math.prod(map(len, listed.values())))]
        grid.sort(key=lambda drawn: [listed[name].index(drawn[name]) for name in listed])
        return grid[:total]

    def trials(self, draws: Iterable[Mapping[str, Any]]) -> list[Trial]:
        """Return the trials with the parameters of draws, numbered from 0."""
        return [self.trial(number, drawn) for number, drawn in enumerate(draws)]

    def trial(self, number: int, drawn: Mapping[str, Any]) -> Trial:
        """Return the trial with the parameters of a draw."""
        found = {name: value(self.parameters[name], drawn[name]) for name in self.parameters}
        return Trial(number, found)

    def space(self) -> "dict[str, BaseDistribution]":
        """Return the Optuna distribution of every parameter."""
        from optuna.distributions import CategoricalDistribution

        if self.method == "grid":
            return {name: CategoricalDistribution(self._choices(name)) for name in self.parameters}
        return {name: distribution(described) for name, described in self.parameters.items()}

    def identity(self, seed: int, first: str) -> str:
        """Return a hash of everything that determines the trials and their choice.

        Args:
            seed: seed of random and bayes trials.
            first: id of the run of the first trial.
        """
        return identity_hash(
            {
                "method": self.method,
                "parameters": self.parameters,
                "metric": [self.metric, self.maximise],
                "early_stop": None if self.early_stop is None else asdict(self.early_stop),
                "seed": seed,
                "first": first,
            }
        )

    def sampler(self, seed: int, number: int) -> "BaseSampler":
        """Return the sampler of one trial, seeded by its number for draws in any process."""
        from optuna.samplers import RandomSampler, TPESampler

        own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        if self.method == "bayes":
            return TPESampler(seed=own, n_startup_trials=STARTUP)
        return RandomSampler(seed=own)

    def pruner(self) -> "BasePruner":
        """Return the Optuna pruner that stops trials early."""
        from optuna.pruners import NopPruner, SuccessiveHalvingPruner

        if self.early_stop is None:
            return NopPruner()
        return SuccessiveHalvingPruner(self.early_stop.first, self.early_stop.eta)

    def _choices(self, name: str) -> list[str]:
        found = choices(self.parameters[name])
        if found is None:
            raise InputError(f"{self.file}: the grid needs values for {name}, not a range.")
        return found

    def fit_line(self, trial: Trial, rest: CommandLine) -> CommandLine:
        """Return the command line of ``fit`` for a trial.

        Args:
            trial: the trial.
            rest: overlays and options of the user's command line, which override the others.
        """
        words = [f"--{name}={option_text(value)}" for name, value in trial.parameters.items()]
        options = [*self.line.options, *CommandLine.parse(words).options, *rest.options]
        return CommandLine([*self.line.configs, *rest.configs], options)


def read_sweep(file: str) -> Sweep:
    """Read a W&B sweep file whose command is ``lightning fit``.

    Raises:
        InputError: when a key is wrong or needs W&B's server, naming it.
    """
    path = find_config(file)
    content = read_mapping(path)
    only_keys(content, KEYS, str(path))
    method = content.get("method")
    if method not in METHODS:
        raise InputError(
            f"{path}: method is {method}, expected grid, random or bayes; a method of your own "
            "needs W&B's server: run it with `wandb sweep` and `wandb agent`."
        )
    parameters = content.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        raise InputError(f"{path} has no parameters: expected names such as data.batch_size.")
    metric = content.get("metric") or {}
    only_keys(metric, ("name", "goal", "target"), f"{path}: metric")
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in ("minimize", "maximize"):
        raise InputError(f"{path}: metric.goal is {goal}, expected minimize or maximize.")
    target = metric.get("target")
    if target is not None and not isinstance(target, int | float):
        raise InputError(f"{path}: metric.target is {target!r}, expected a number.")
    cap = content.get("run_cap")
    if cap is not None and (type(cap) is not int or cap < 1):
        raise InputError(f"{path}: run_cap is {cap!r}, expected a whole number from 1.")
    for needs in ("bayes", "early_terminate"):
        if needs in (method, *content) and not metric.get("name"):
            raise InputError(f"{path}: {needs} needs metric, with the name and goal of a score.")
    return Sweep(
        name=path.stem,
        file=path,
        line=_line(content.get("command"), path),
        method=method,
        parameters={
            name: read_parameter(described, f"{path}: parameters: {name}")
            for name, described in parameters.items()
        },
        metric=str(metric.get("name", "val/dice/mean")),
        maximise=goal == "maximize" or not metric,
        run_cap=cap,
        target=target,
        early_stop=_early_stop(content.get("early_terminate"), f"{path}: early_terminate"),
    )


def _early_stop(described: Any, where: str) -> EarlyStop | None:
    """Return the rule of W&B's hyperband for stopping trials.

    They may be stopped after min_iter * eta^k scores with ``min_iter``, or after max_iter / eta^k
    scores, k from s down to 1, with ``max_iter`` and ``s``.
    """
    if described is None:
        return None
    if not isinstance(described, Mapping) or described.get("type") != "hyperband":
        raise InputError(f"{where} is {described!r}, expected a mapping with type: hyperband.")
    only_keys(described, ("type", "min_iter", "max_iter", "s", "eta", "strict"), where)
    eta, strict = described.get("eta", 3), described.get("strict", False)
    if not isinstance(strict, bool):
        raise InputError(f"{where}.strict is {strict!r}, expected true or false.")
    for name, least in (("eta", 2), ("min_iter", 1), ("max_iter", 1), ("s", 1)):
        number = described.get(name, least)
        if type(number) is not int or number < least:
            raise InputError(f"{where}.{name} is {number!r}, expected a whole number from {least}.")
    given = {name for name in ("min_iter", "max_iter", "s") if name in described}
    if given == {"min_iter"}:
        return EarlyStop(described["min_iter"], eta, None, strict)
    if given != {"max_iter", "s"}:
        raise InputError(f"{where} has {sorted(given)}, expected min_iter, or max_iter and s.")
    rungs = [described["max_iter"] // eta**k for k in range(1, described["s"] + 1)]
    if not rungs[0]:
        raise InputError(f"{where}.max_iter is below eta: expected {eta} or more.")
    return EarlyStop(min(rung for rung in rungs if rung), eta, rungs[0], strict)


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
