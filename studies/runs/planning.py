"""Trainings resolved: configuration, data, identity, and the stages upstream of them."""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.base import CohortData
from errors import InputError
from files import sha256_of
from lightning_modules.weights.checkpoints import build, read_card
from studies.runs.foreign.adoption import Adoption, adopt
from studies.runs.foreign.networks import Converted, convert
from studies.runs.run import FORMER, Run, identity_hash
from studies.settings.command_line import CommandLine, find_file
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

    def weights(self) -> dict[str, Path]:
        """Return the files of weights that the model starts from, by the names it has for them."""
        named = [one for one in _strings(self.config["model"]) if one.endswith(WEIGHTS)]
        adopted = {name: one.checkpoint for name, one in self.adoption.networks.items()}
        return {one: find_file(one) for one in named} | adopted

    def checkpoints(self) -> dict[str, Path]:
        """Return those of the weights that are checkpoints of this project."""
        return {name: file for name, file in self.weights().items() if file.suffix == ".ckpt"}


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
        self.rehearsed: set[tuple[str, tuple[int, ...]]] = set()

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
        plan = Plan(line, config, data, run, stages, determinants, adoption)
        if not all(stage.run.finished for stage in stages.values()):
            self.rehearse(plan)
        return plan

    def check(self, line: CommandLine) -> dict[str, Any]:
        """Return the checked configuration of a command line without preparing data.

        Raises:
            InputError: when a setting is unknown or invalid.
        """
        config = self.parse(line)
        adopt(line, config, self._convert)
        self.make_data(config["data"])
        return config

    def rehearse(self, plan: Plan) -> None:
        """Build a model upon its untrained stages, so that a wrong option is found before these.

        Raises:
            InputError: when the model cannot be built, or cannot take the patches.
        """
        model, patch_size = architecture(plan), tuple(plan.data.patch_size)
        if (model, patch_size) not in self.rehearsed:
            with torch.device("meta"):  # without memory, and without a random number
                module: Any = build(json.loads(model))
            module.check_patch(patch_size)
            self.rehearsed.add((model, patch_size))

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
            return f"file:{file_hash(find_file(text))}"
        return text

    return replace_strings(model, identify)


def architecture(plan: Plan) -> str:
    """Return the model of a training as JSON, upstream models included, without weights."""
    given = plan.checkpoints().items()
    below = {name: json.dumps(read_card(file)["model"]) for name, file in given}
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
    return sha256_of(path)
