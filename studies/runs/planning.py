"""Upstream stages of an experiment: resolved, identified and trained before it."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.base import CohortData
from errors import InputError
from lightning_modules.callbacks.run_progress import RunBars
from studies.runs.environment import cores, is_main_process
from studies.runs.foreign.adoption import Adoption, adopt
from studies.runs.foreign.networks import Converted, convert
from studies.runs.process import FOREIGN, stop
from studies.runs.run import FORMER, Run, identity_hash
from studies.settings.command_line import ROOT, CommandLine
from studies.settings.protocol import PROTOCOL

# Options of the model that came later, and their values without effect: these are no part of the
# identity, so that the ids of earlier runs stay.
LATER_PROTOCOL = ("compile",)  # the same among the trainer's settings, where unset
LATER_OPTIONS: dict[str, Any] = {
    "frozen": "nothing",
    "output_rate": 1.0,
    "output_bias": None,
    "deep_supervision": False,
    "trained_on": None,
    "regions": None,
}

WEIGHTS = (".ckpt", ".pth", ".pt", ".npz")  # files identified by their content, not their path
Parse = Callable[[CommandLine], dict[str, Any]]


@dataclass
class Plan:
    """A resolved training: its configuration, data, upstream stages and run.

    Args:
        line: the command line of the training.
        config: resolved configuration of ``fit``, plain types.
        data: the data module, prepared and split.
        stages: upstream trainings by experiment file.
        run: identity and folder of the training.
        determinants: what the identity is the hash of.
        adoption: networks of other projects that it starts from, and settings taken over from them.
    """

    line: CommandLine
    config: dict[str, Any]
    data: CohortData
    run: Run
    stages: dict[str, "Plan"] = field(default_factory=dict)
    determinants: dict[str, Any] = field(default_factory=dict)
    adoption: Adoption = field(default_factory=Adoption)

    def checkpoints(self) -> dict[str, Path]:
        """Return the files that the model is built upon, by the names that it has for them."""
        found = {one: Path(one) for one in _strings(self.config["model"]) if one.endswith(".ckpt")}
        return found | {name: one.checkpoint for name, one in self.adoption.networks.items()}


class Planner:
    """Resolve trainings and their upstream stages, and prepare shared data once.

    Args:
        parse: turns a command line into the resolved configuration of ``fit``.
        runs_dir: folder of all runs.
    """

    def __init__(self, parse: Parse, runs_dir: Path) -> None:
        self.parse = parse
        self.runs_dir = runs_dir
        self.prepared: dict[str, CohortData] = {}
        self.converted: dict[tuple[Any, ...], Converted] = {}

    def plan(self, line: CommandLine, config: dict[str, Any] | None = None) -> Plan:
        """Resolve a training after everything upstream of it."""
        config = self.parse(line) if config is None else config
        adoption = adopt(line, config, self._convert)
        data = self.prepare_cohort(config["data"])
        for text in adoption.notes:
            if text not in data.notices:  # prepared for another training of this command
                data.notices.append(text)
        stages = {}
        for name in dict.fromkeys(_strings(config["model"]["init_args"])):
            if name.endswith((".yaml", ".yml")):
                stages[name] = self.plan(adoption.upstream(line, name))
        determinants = {
            "model": _identify(_trained(config["model"]), stages, adoption),
            "data": data.identity(),
            "cohort": data.fingerprint(),
            "seed": config["seed_everything"],
            "protocol": {
                name: config["trainer"].get(name)
                for name in PROTOCOL
                if name not in LATER_PROTOCOL or config["trainer"].get(name) is not None
            },
            "callbacks": config["trainer"].get("callbacks"),
        }
        run_id = identity_hash(determinants)
        run = Run(line.experiment, run_id, self.runs_dir / line.experiment / run_id)
        return Plan(line, config, data, run, stages, determinants, adoption)

    def check(self, line: CommandLine) -> dict[str, Any]:
        """Return the checked configuration of a command line without preparing data.

        Raises:
            InputError: when a setting is unknown or invalid.
        """
        config = self.parse(line)
        adopt(line, config, self._convert)
        self.make_data(config["data"])
        return config

    def _convert(self, *words: Any) -> Converted:
        """Return a network of another project, converted once for all plans."""
        if words not in self.converted:
            self.converted[words] = convert(*words)
        return self.converted[words]

    @staticmethod
    def make_data(spec: Mapping[str, Any]) -> CohortData:
        """Return a data module, not yet prepared."""
        module_name, _, class_name = spec["class_path"].rpartition(".")
        data_class = getattr(importlib.import_module(module_name), class_name)
        data: CohortData = data_class(**spec["init_args"])
        return data

    def prepare_cohort(self, spec: Mapping[str, Any]) -> CohortData:
        """Return the data module of a configuration with its cases prepared, once for each."""
        key = json.dumps(spec, sort_keys=True, default=str)
        if key not in self.prepared:
            data = self.make_data(spec)
            data.prepare_data()
            data.setup("fit")
            self.prepared[key] = data
        return self.prepared[key]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def replace_strings(value: Any, replace: Callable[[str], Any]) -> Any:
    """Return ``value`` with every string inside it passed through ``replace``."""
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, Mapping):
        return {name: replace_strings(inner, replace) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_strings(inner, replace) for inner in value]
    return value


def postprocessing_of(model: Mapping[str, Any]) -> Any:
    """Return the post-processing of a model's configuration, None where there is none."""
    return model["init_args"].get("postprocessing")


def _trained(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration without what is no part of its training.

    Post-processing acts after it, and the ids that a foreign network was trained on are identified
    together with that network.
    """
    apart = ("postprocessing", "trained_on")
    kept = {name: v for name, v in _in_use(model)["init_args"].items() if name not in apart}
    return {**model, "init_args": kept}


def _in_use(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's configuration without later options that have no effect."""
    kept = {
        name: value
        for name, value in model["init_args"].items()
        if name not in LATER_OPTIONS or value != LATER_OPTIONS[name]
    }
    return {**model, "init_args": kept}


def former_id(plan: Plan, schema: int) -> str:
    """Return the identity of a training under an earlier schema, to find runs of older versions."""
    model, former = plan.config["model"], dict(plan.determinants)
    named = _in_use(model) if schema == 1 else _trained(model)
    name = partial(former_id, schema=schema)
    former["model"] = _identify(named, plan.stages, plan.adoption, name)
    if schema == 1:
        former["cohort"] = plan.data.voxel_fingerprint()
    return identity_hash(former, schema)


def former_runs(plan: Plan) -> list[str]:
    """Return a notice for every pending training that an older version has finished."""
    found = [notice for stage in plan.stages.values() for notice in former_runs(stage)]
    if plan.run.started:
        return found
    for schema, difference in FORMER.items():
        name = former_id(plan, schema)
        former = Run(plan.run.experiment, name, plan.run.folder.with_name(name))
        if former.finished:
            found.append(
                f"{former.folder} is this training as an older version knew it, {difference}: it "
                "is not reused; test and compare still take it, as --ckpt_path and by its folder."
            )
    return found


def _identify(
    model: Mapping[str, Any],
    stages: Mapping[str, Plan],
    adoption: Adoption,
    name: Callable[[Plan], str] | None = None,
) -> Any:
    def identify(text: str) -> str:
        if text in adoption.networks:
            return f"file:{adoption.networks[text].digest}"
        if text in stages:
            return f"run:{name(stages[text]) if name else stages[text].run.id}"
        if text.endswith(WEIGHTS):
            return f"file:{file_hash(Path(text).expanduser())}"
        return text

    return replace_strings(model, identify)


def architecture(plan: Plan) -> str:
    """Return the model of a training as JSON, upstream models included, without weights."""
    foreign = plan.adoption.networks.items()
    below = {name: json.dumps(one.card["model"]) for name, one in foreign}
    below |= {name: architecture(stage) for name, stage in plan.stages.items()}
    return json.dumps(replace_strings(plan.config["model"], lambda text: below.get(text, text)))


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: when the file is absent.
    """
    if not path.is_file():
        raise InputError(
            f"No weights at {path}: give the path of a checkpoint or of an official file."
        )
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def begun_stage(plan: Plan) -> Run | None:
    """Return the run of a stage that was begun and interrupted, if any."""
    for stage in plan.stages.values():
        run = stage.run
        found = begun_stage(stage)
        # lock before state: a process that ends meanwhile writes "finished" before it unlocks
        if found is None and run.started and not run.is_locked() and not run.finished:
            found = run
        if found is not None:
            return found
    return None


def train_stages(plan: Plan, *, side_by_side: bool) -> None:
    """Train every upstream stage that has no finished run, in processes of their own.

    Args:
        plan: the training whose stages are wanted.
        side_by_side: train them at the same time, each with a share of the cores: on two cores
            this is about twice as fast as one after the other with both cores.

    Raises:
        InputError: when a stage fails.
    """
    for stage in plan.stages.values():
        train_stages(stage, side_by_side=side_by_side)
    wait_for_others(plan)
    pending = [stage for stage in plan.stages.values() if not stage.run.finished]
    for name, stage in plan.stages.items():
        state = "trained before" if stage.run.finished else "to be trained first"
        if is_main_process():
            print(f"Stage {name}: {state}, {stage.run.folder}", flush=True)
    if not pending:
        return
    share = max(1, cores() // len(plan.stages))  # also when only one of them is left
    groups = [pending] if side_by_side else [[stage] for stage in pending]
    for group in groups:
        _train_group(group, threads=share if side_by_side else None)
    if _alone() and not all(stage.run.finished for stage in pending):
        train_stages(plan, side_by_side=side_by_side)  # another process has just begun one


def _alone() -> bool:
    """Whether this training has one process only; ranks of one training share their stages."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) == 1


def _elsewhere(plan: Plan) -> bool:
    """Whether another process runs this training or has finished it."""
    return _alone() and (plan.run.is_locked() or plan.run.finished)


def wait_for_others(plan: Plan) -> None:
    """Wait for stages that other processes train, such as another agent of the same sweep."""
    for name, stage in plan.stages.items():
        if stage.run.finished or not _elsewhere(stage):
            continue
        print(f"Stage {name}: another process trains it, waiting: {stage.run.folder}", flush=True)
        while stage.run.is_locked():
            time.sleep(1)


def _train_group(group: list[Plan], threads: int | None) -> None:
    with ExitStack() as stack:
        processes = [start_stage(plan, index, threads, stack) for index, plan in enumerate(group)]
        bars = stack.enter_context(RunBars())
        for plan in group:
            bars.begin(plan.run.progress_file, plan.run.experiment)
        running = True
        while running:
            running = any(process.poll() is None for process in processes)
            for plan in group:
                bars.look(plan.run.progress_file, plan.run.experiment)
            failed = [
                plan
                for plan, one in zip(group, processes, strict=True)
                if one.poll() and not _elsewhere(plan)
            ]
            if failed:
                break  # the others are stopped and can be resumed
            time.sleep(0.25)
    if not failed and is_main_process():
        failed = [plan for plan in group if not plan.run.finished and not _elsewhere(plan)]
    if failed:
        raise InputError(_failure(failed[0]))


def start_stage(
    plan: Plan, index: int, threads: int | None, stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Start the training of a stage as a process of its own, which ends with the stack.

    Args:
        plan: the stage.
        index: its number among those that are trained at the same time.
        threads: of the processor that it may use; None: as many as this process may.
        stack: holds its log file and ends it.
    """
    run = plan.run
    run.folder.mkdir(parents=True, exist_ok=True)
    run.progress_file.unlink(missing_ok=True)
    environment = {**os.environ, "GLIOFUSE_STAGE": "1"}
    # a W&B service of its own, as that of this process would keep a killed stage open; and a run of
    # its own where an agent of a W&B sweep started this process
    for name in FOREIGN:
        environment.pop(name, None)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    if "MASTER_PORT" in environment:  # from torchrun or SLURM: the stage needs its own rendezvous
        environment["MASTER_PORT"] = str(int(environment["MASTER_PORT"]) + 1 + index)
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    log = stack.enter_context(run.log_file.open("ab"))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "fit", *plan.line.words()],
        env=environment,
        stdin=subprocess.PIPE,  # closes when this process dies, even by SIGKILL: the stage stops
        stdout=log,
        stderr=log,
    )
    stack.callback(stop, process)
    return process


def _failure(plan: Plan) -> str:
    lines = plan.run.log_file.read_text(errors="replace").strip().splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "without output")
    message = last.strip().removeprefix("lightning fit: ").removesuffix(".")
    return (
        f"The stage {plan.run.experiment} stopped ({message}): its output is in "
        f"{plan.run.log_file}; mend the cause and repeat the command with --resume."
    )
