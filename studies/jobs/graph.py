"""The jobs of a study, each one training or one test, without repeats and in order of need."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datamodules.slices.random_split import cases_of
from errors import InputError
from studies.runs.checkpoint_settings import RULES, settings_of_run
from studies.runs.planning import Plan, postprocessing_of
from studies.runs.run import Run
from studies.runs.unused_options import plain_name
from studies.scores.tested import read_scores
from studies.settings.command_line import CommandLine

# Options of a training that its tests need too; the checkpoint holds the other settings.
PLACES = (
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes"),
    *("data.root", "data.layout", "data.labels", "data.cache_dir", "data.num_workers"),
)
VARIANTS = "variants"  # folder of the tests of a benchmark that are not the run's own


@dataclass(frozen=True)
class Variant:
    """A further test of every system beside its own, such as without a modality.

    Args:
        name: name in files and tables.
        options: command-line words for ``lightning test``.
    """

    name: str
    options: tuple[str, ...]


@dataclass
class Job:
    """A training, or a test of one.

    Args:
        id: name of the job in files; ``<experiment>-<run>`` for a training.
        kind: fit or test.
        run: the run that is trained or tested.
        words: command-line words after ``lightning``.
        needs: ids of the jobs that have to finish first.
        plan: the resolved training.
        variant: name of the test; empty for the run's own.
        options: options of a variant, the last of its words.
        results: folder of ``per_case.csv``.
        threads: processor threads; None: the workers choose.
    """

    id: str
    kind: Literal["fit", "test"]
    run: Run
    words: list[str]
    needs: list[str]
    plan: Plan
    variant: str = ""
    options: Sequence[str] = ()
    results: Path = field(default_factory=Path)
    threads: int | None = None

    @property
    def table(self) -> Path:
        """File of a test's scores, a row for each patient."""
        return self.results / "per_case.csv"

    @property
    def progress_file(self) -> Path:
        """File in which the job's process records its progress."""
        return (self.run.folder if self.kind == "fit" else self.results) / "progress.json"

    def finished(self) -> bool:
        """Whether the job's result is there and whole."""
        if self.kind == "fit":
            return self.run.finished
        if not self.table.is_file() or self.damage():
            return False
        return bool(self.variant) or "test_scores" in self.run.manifest()

    def damage(self) -> str:
        """Return a sentence on what is wrong with an existing table of scores; empty: nothing."""
        if self.kind == "fit" or not self.table.is_file():
            return ""
        return damage_of(self.table, self.patients())

    def patients(self) -> set[str]:
        """Return the case ids that the test scores; empty: unknown, because of another cohort."""
        typed = (plain_name(name) for name, _ in CommandLine.parse(list(self.options)).options)
        if any(name.startswith(("data.root", "data.split")) for name in typed):
            return set()
        return cases_of(self.plan.data.split.test, self.plan.data.case_hashes())

    def describe(self) -> dict[str, Any]:
        """Return the job for ``plan.json``."""
        described = {
            "id": self.id,
            "kind": self.kind,
            "experiment": self.run.experiment,
            "run": str(self.run.folder),
            "needs": self.needs,
            "command": ["lightning", *self.words],
        }
        if self.kind == "test":
            described |= {"variant": self.variant, "per_case": str(self.table)}
        return described


def damage_of(table: Path, patients: set[str]) -> str:
    """Return a sentence on what is wrong with a ``per_case.csv``; empty: nothing.

    Args:
        table: the file.
        patients: case ids that it should hold; empty: any.
    """
    try:
        found = [row["case_id"] for row in read_scores(table)]
    except InputError as error:
        return str(error)
    if patients and sorted(found) != sorted(patients):
        return f"{table} holds {len(found)} rows for {len(patients)} patients."
    return ""


class JobGraph:
    """The jobs that a study needs; a training that several jobs need appears once."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def add_training(self, plan: Plan) -> Job:
        """Add a training and, before it, its stages."""
        stages = [self.add_training(stage) for stage in plan.stages.values()]
        run = plan.run
        name = f"{run.experiment}-{run.id}"
        if name not in self.jobs:
            words = ["fit", *_without(plan.line.typed(), "runs_dir"), *_runs_dir(run)]
            # chosen by this machine's processor; another machine must not choose differently
            words.append(f"--trainer.precision={plan.config['trainer']['precision']}")
            needs = [stage.id for stage in stages]
            self.jobs[name] = Job(name, "fit", run, words, needs, plan)
        return self.jobs[name]

    def add_test(self, plan: Plan, variant: Variant | None = None) -> Job:
        """Add the test of a training: its own, or a variant into a folder of its own."""
        training = self.add_training(plan)
        run, options = plan.run, list(variant.options) if variant else []
        folder = run.folder
        rules = _other_rules(plan)
        if rules and not variant:  # the run was trained by an experiment with other rules
            options, variant = rules, Variant("postprocessing", tuple(rules))
        elif rules:
            options = [*rules, *options]
        if variant:
            digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]
            folder = run.folder / VARIANTS / f"{variant.name}-{digest}"
        name = f"{training.id}.test" + (f"-{folder.name}" if variant else "")
        if name not in self.jobs:
            words = ["test", "--ckpt_path", str(run.best_checkpoint), *_runs_dir(run)]
            words += _places(plan)
            if variant:
                words += [f"--results_dir={folder}", *options]
            self.jobs[name] = Job(
                name,
                "test",
                run,
                words,
                [training.id],
                plan,
                variant.name if variant else "",
                options,
                folder,
            )
        return self.jobs[name]

    def with_needs(self, job: Job) -> list[Job]:
        """Return a job after those it needs."""
        needs = [each for name in job.needs for each in self.with_needs(self.jobs[name])]
        return [*{each.id: each for each in needs}.values(), job]

    def ordered(self) -> list[Job]:
        """Return the jobs, each after those it needs: the order in which they were added."""
        return list(self.jobs.values())


def _other_rules(plan: Plan) -> list[str]:
    """Return the option that sets a test's post-processing to that of its experiment.

    Trainings that differ in post-processing alone are one run. The list is empty if the run has
    the experiment's post-processing already.
    """
    run = plan.run
    if not run.finished:
        return []
    wanted = postprocessing_of(plan.config["model"])
    model = settings_of_run(run).config.get("model")
    if not model or wanted == postprocessing_of(model):
        return []
    return [f"--{RULES}{json.dumps(wanted)}"]


def _runs_dir(run: Run) -> list[str]:
    return [f"--runs_dir={run.folder.parents[1]}"]


def _without(words: Sequence[str], name: str) -> list[str]:
    """Return the words without an option and its value."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == f"--{name}":
            skip = True
        elif not word.startswith(f"--{name}="):
            kept.append(word)
    return kept


def _places(plan: Plan) -> list[str]:
    """Return the words of a training that name its devices and the place of its data."""
    return [word for name, words in plan.line.options if name in PLACES for word in words]
