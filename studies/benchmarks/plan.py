"""Resolve a benchmark into the trainings and tests of every system, with shared stages once."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from errors import InputError
from evaluation.tables.per_case import read_csv, write_csv
from outputs import Outputs
from progress import Bar
from studies.benchmarks.benchmark_file import Benchmark, Entry
from studies.benchmarks.fairness import check_fair, protocol_of
from studies.jobs.graph import Job, JobGraph
from studies.runs.planning import Parse, Planner
from studies.runs.request import check_variant
from studies.runs.unused_options import check_together, check_typed
from studies.settings.command_line import CommandLine
from studies.settings.unknown_names import placed


@dataclass(frozen=True)
class Cell:
    """One table of scores: a system trained on one fold with one seed and tested one way.

    Args:
        entry: the system.
        fold: fold of cross-validation; None: the default split.
        seed: seed of the training.
        variant: name of the test; empty for the run's own.
        training: the job that trains the system.
        test: the job that writes the table.
    """

    entry: Entry
    fold: int | None
    seed: int
    variant: str
    training: Job
    test: Job

    def keys(self) -> dict[str, Any]:
        """Return the keys that identify the cell in ``plan.json`` and ``results.csv``."""
        return {
            "system": self.entry.system,
            "experiment": self.training.run.experiment,
            "fold": "" if self.fold is None else self.fold,
            "seed": self.seed,
            "variant": self.variant,
            "run": f"{self.training.run.experiment}/{self.training.run.id}",
        }


@dataclass
class BenchmarkPlan:
    """All jobs of a benchmark, and the tables of scores that they make.

    Args:
        benchmark: content of the file.
        graph: the jobs.
        cells: one for every table of scores.
        differences: settings of the protocol in which systems differ, with the value of each.
    """

    benchmark: Benchmark
    graph: JobGraph
    cells: list[Cell]
    differences: dict[str, dict[str, Any]]

    def to_dict(self, command: list[str]) -> dict[str, Any]:
        """Return the content of ``plan.json``, which tables and report read."""
        benchmark = self.benchmark
        return {
            "name": benchmark.name,
            "file": str(benchmark.file),
            "command": command,
            "reference": benchmark.reference,
            "systems": [
                {
                    "system": entry.system,
                    "file": entry.file,
                    "overlays": list(entry.overlays),
                    "options": list(entry.options),
                    **({"line": entry.line} if entry.line else {}),
                }
                for entry in benchmark.entries
            ],
            "n_folds": benchmark.n_folds,
            "folds": benchmark.folds,
            "seeds": benchmark.seeds,
            "overlays": benchmark.overlays,
            "options": benchmark.options,
            "variants": {variant.name: list(variant.options) for variant in benchmark.variants},
            "tables": benchmark.tables,
            "allow_different": benchmark.allow_different,
            "differences": self.differences,
            "cells": [
                {
                    **cell.keys(),
                    "folder": str(cell.training.run.folder),
                    "per_case": str(cell.test.table),
                }
                for cell in self.cells
            ],
            "jobs": [job.describe() for job in self.graph.ordered()],
        }

    def write(self, folder: Path, command: list[str]) -> None:
        """Write ``plan.json``."""
        text = json.dumps(self.to_dict(command), indent=2, default=str)
        Outputs(folder, "--out").settle("plan.json", text + "\n")

    def write_results(self, folder: Path) -> Path:
        """Write ``results.csv``: a row for each patient of every finished test."""
        rows = [
            {**cell.keys(), **row}
            for cell in self.cells
            if cell.test.finished()
            for row in read_csv(cell.test.table)
        ]
        return Outputs(folder, "--out").settle("results.csv", partial(write_csv, rows))


def make_plan(benchmark: Benchmark, planner: Planner, line: CommandLine) -> BenchmarkPlan:
    """Resolve every training and test of a benchmark; refuse an unfair comparison.

    Args:
        benchmark: content of the file.
        planner: resolves command lines of ``fit``.
        line: overlays and options of the command line, applied to every experiment.

    Raises:
        InputError: an experiment does not resolve, or the comparison is unfair.
    """
    differences = compare_protocols(benchmark, planner.check, line)
    _check_variants(benchmark, planner.check, line)
    graph = JobGraph()
    cells: list[Cell] = []
    folds: list[int | None] = [*benchmark.folds] or [None]
    wanted = [*product(folds, benchmark.seeds, benchmark.entries)]

    def add(fold: int | None, seed: int, entry: Entry) -> None:
        with _placed_if_its_own(benchmark, entry):
            plan = planner.plan(_line(benchmark, entry, line, fold=fold, seed=seed))
        training = graph.add_training(plan)
        _check_once(entry, training, cells)
        for variant in [None, *benchmark.variants]:
            test = graph.add_test(plan, variant)
            name = variant.name if variant else ""
            cells.append(Cell(entry, fold, seed, name, training, test))

    add(*wanted[0])  # prepares the data, below a bar of its own
    with Bar(wanted[1:], desc="resolving trainings", total=len(wanted) - 1, delay=5) as bar:
        for one in bar:
            add(*one)
    return BenchmarkPlan(benchmark, graph, cells, differences)


@contextmanager
def _placed_if_its_own(benchmark: Benchmark, entry: Entry) -> Iterator[None]:
    """Prefix an error about an option that the file gives this system with the system's name."""
    try:
        yield
    except InputError as error:
        names = [name for name, _ in CommandLine.parse([*entry.options]).options]
        if not any(name in str(error) for name in names):
            raise
        raise InputError(f"{benchmark.file}: {entry.system}: {error}") from error


def _check_variants(benchmark: Benchmark, parse: Parse, line: CommandLine) -> None:
    """Refuse a further test with an unknown data setting or a wrong value of one."""
    for variant in benchmark.variants:
        words = [word for word in variant.options if word.startswith("--data.")]
        fit = _line(benchmark, benchmark.entries[0], line)
        fit = CommandLine(fit.configs, [*fit.options, *CommandLine.parse(words).options])
        with placed(f"{benchmark.file}: test {variant.name}", line):
            check_variant(CommandLine.parse(list(variant.options)))
            parse(fit)


def _check_once(entry: Entry, training: Job, cells: Sequence[Cell]) -> None:
    """Refuse a system that resolves to the same training as another."""
    for cell in cells:
        if cell.training is training and cell.entry.system != entry.system:
            raise InputError(
                f"{cell.entry.system} and {entry.system} are the same training, because their "
                "differences in the benchmark's file do not change it, or an option of this "
                "command overrides them: leave one of them, or that option, out; post-processing, "
                "which acts after training, goes under test."
            )


def compare_protocols(
    benchmark: Benchmark, parse: Parse, line: CommandLine
) -> dict[str, dict[str, Any]]:
    """Return the settings in which the systems' protocols differ, with the value of each.

    Raises:
        InputError: where the difference makes the comparison unfair.
    """

    def protocols(*, own: bool) -> dict[str, dict[str, Any]]:
        found = {}
        for entry in benchmark.entries:
            with placed(f"{benchmark.file}: {entry.system}", line):
                config = parse(_line(benchmark, entry, line, own=own))
                check_together(line, config["data"]["init_args"], config["model"]["init_args"])
                found[entry.system] = protocol_of(config)
        return found

    return check_fair(protocols(own=True), protocols(own=False), benchmark.allow_different)


def _line(
    benchmark: Benchmark,
    entry: Entry,
    line: CommandLine,
    *,
    own: bool = True,
    fold: int | None = None,
    seed: int | None = None,
) -> CommandLine:
    """Return the command line of ``fit`` for one system.

    Later files override earlier ones, in the order benchmark, experiment, command line; so do
    options, and all options override all files.
    """
    overlays = [*benchmark.overlays, *(entry.overlays if own else ()), *line.configs]
    words = [*benchmark.options, *(entry.options if own else ())]
    if fold is not None:
        words += [f"--data.n_folds={benchmark.n_folds}", f"--data.fold={fold}"]
    if seed is not None:
        words += [f"--seed_everything={seed}", f"--data.seed={seed}"]
    options = [*CommandLine.parse(words).options, *line.options]
    return CommandLine([entry.file, *overlays], options)


def check_forwarded(line: CommandLine) -> None:
    """Refuse an option of the command line that does not apply to every experiment.

    Raises:
        InputError: when there is one, naming it.
    """
    for name, _ in line.options:
        if name in ("config", "c"):
            continue  # without a file, which `check_typed` refuses
        if name in ("data.n_folds", "data.fold", "data.seed", "seed_everything"):
            raise InputError(f"--{name} is given to every training by --folds and --seeds.")
        first = name.partition(".")[0]
        if first not in ("data", "trainer") and name not in ("model.size", "model.init_args.size"):
            raise InputError(
                f"--{name} is no option of this command: --data.*, --trainer.*, --model.size and "
                "--config go to every experiment, other settings into the file."
            )
    check_typed("fit", line)
