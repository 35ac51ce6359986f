"""Recreation of a run from its own folder, and the differences to the present."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from errors import InputError
from lightning_modules.inference import choose_execution
from outputs import Outputs
from studies.runs.environment import cores, git_revision, hardware, versions
from studies.runs.planning import Parse, Plan, replace_strings
from studies.runs.run import SCHEMA, Run, run_named
from studies.settings.command_line import CommandLine
from studies.settings.trainer import choose_device, device_count

NOT_TRAINING = ("runs_dir", "resume", "overwrite", "ckpt_path", "weights_only")


@dataclass(frozen=True)
class Difference:
    """A difference between a run and its recreation.

    Args:
        what: name of the value.
        then: value in the run.
        now: value in the recreation.
    """

    what: str
    then: Any
    now: Any


def find_run(name: str, runs_dir: Path) -> Run:
    """Find a finished run: its folder, ``experiment/id``, or an experiment's newest.

    Raises:
        InputError: when there is none, or it is unfinished.
    """
    run = run_named(name, runs_dir)
    if run is None:
        raise InputError(
            f"There is no finished run {name}: give its folder, experiment/id, or an experiment "
            f"with a finished run below {runs_dir}."
        )
    if not run.finished:
        raise InputError(f"The run {run.folder} never finished: finish it with --resume first.")
    return run


def _stored_config(run: Run) -> dict[str, Any]:
    """Return the resolved configuration of a run.

    Raises:
        InputError: when its file is missing or damaged.
    """
    file = run.folder / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict) or not {"model", "trainer"} <= content.keys():
        raise InputError(
            f"{file} is gone or damaged, so the run cannot be trained again from it: put a copy of "
            "it back, or train its experiment with `lightning fit`."
        )
    return content


def recreate(run: Run, folder: Path) -> Path:
    """Write configuration files that train a run and its stages again.

    The training uses as many devices as the run did if this machine has them, else one.

    Args:
        run: a finished run.
        folder: folder of the files.

    Raises:
        InputError: when a part of the run is missing.
    """
    config = {k: v for k, v in _stored_config(run).items() if k not in NOT_TRAINING}
    files = {name: str(recreate(stage, folder)) for name, stage in stages_of(run).items()}
    config["model"] = replace_strings(config["model"], lambda text: files.get(text, text))
    config["trainer"] |= _devices(run, config["trainer"])
    name, text = f"{run.id}/{run.experiment}.yaml", yaml.safe_dump(config, sort_keys=False)
    return Outputs(folder, "--out").settle(name, text).resolve()


def _devices(run: Run, trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer settings for as many devices as a run was trained on."""
    then = run.manifest().get("execution", {})
    if "devices" not in then:
        return {}
    kind = choose_device(trainer["accelerator"])
    there = device_count({**trainer, "devices": "auto", "num_nodes": 1})
    if kind == then["inference"]["device"] == "cpu":  # each core can be a device
        there = cores()
    return {"devices": then["devices"] if then["devices"] <= there else "auto", "num_nodes": 1}


def stages_of(run: Run) -> dict[str, Run]:
    """Return the upstream runs of a run, by the experiment files in its configuration.

    Raises:
        InputError: when one is missing.
    """
    found = {}
    for name, stored in run.manifest().get("stages", {}).items():
        experiment, identity = Path(stored).parts[-2:]
        places = [Path(stored), run.folder.resolve().parents[1] / experiment / identity]
        place = next((path for path in places if (path / "manifest.json").is_file()), None)
        if place is None:
            raise InputError(
                f"The stage {experiment}/{identity} of {run.folder} is gone: put its folder back."
            )
        found[name] = Run(experiment, identity, place)
    return found


def differences(run: Run, plan: Plan, parse: Parse) -> list[Difference]:
    """Return all differences between a run and its training as it resolves now.

    Args:
        run: the run.
        plan: its training as it resolves now.
        parse: resolves command lines of ``fit``, to read today's experiment files.
    """
    manifest = run.manifest()
    found = []
    then, now = (
        manifest.get("determinants", {}),
        json.loads(json.dumps(plan.determinants, default=str)),
    )
    cohort = plan.data.fingerprint()
    schema = int(manifest.get("schema", 1))
    if schema < SCHEMA:  # values that it does not record do not count
        then, now = _comparable(then), _comparable(now)
        found.append(Difference("identity", str(schema), str(SCHEMA)))
    if schema == 1:
        cohort = plan.data.voxel_fingerprint()
    for name, one, other in changed_values({**then, "cohort": None}, {**now, "cohort": None}):
        found.append(Difference(name, _short(one), _short(other)))
    sections: list[tuple[str, Any, Any]] = [
        ("data fingerprint", manifest.get("cohort"), cohort),
        *_surroundings(manifest, plan),
        ("experiment files", *_files(run, parse)),
    ]
    return found + _named(sections)


def _comparable(determinants: dict[str, Any]) -> dict[str, Any]:
    """Return the determinants of a run in a form that all schemas share."""
    model = dict(determinants.get("model") or {})
    kept = dict(model.get("init_args") or {})
    kept.pop("postprocessing", None)
    model["init_args"] = replace_strings(
        kept, lambda text: "run" if text.startswith("run:") else text
    )
    return {**determinants, "model": model}


def outdated(plan: Plan) -> list[Difference]:
    """Return the differences in environment to an earlier training of this identity.

    The identity does not cover versions, revision, machine and devices, so a reproduction that was
    begun with others says nothing about the present ones.
    """
    manifest = plan.run.manifest()
    found = _named(_surroundings(manifest, plan)) if manifest else []
    return [difference for difference in found if difference.what != "hardware memory_gb"]


def _surroundings(manifest: Mapping[str, Any], plan: Plan) -> list[tuple[str, Any, Any]]:
    """Return the environment of a training, then and now, by sections."""
    return [
        ("git", manifest.get("git"), git_revision()),
        ("version", manifest.get("versions"), versions()),
        ("hardware", _machine(manifest.get("hardware", {})), _machine(hardware())),
        ("execution", _computed(manifest.get("execution", {})), _computed(_execution(plan))),
    ]


def _machine(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine without its threads, as every job gets those of its run."""
    return {name: value for name, value in described.items() if name != "threads"}


def _computed(execution: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of an execution that affect the result and are not in the identity."""
    inference = execution.get("inference", {})
    chosen = {f"inference {name}": inference.get(name) for name in ("precision", "channels_last")}
    return {"devices": execution.get("devices"), **chosen}


def _execution(plan: Plan) -> dict[str, Any]:
    """Return the execution of a training; a job without a number of devices gets one."""
    trainer = plan.config["trainer"]
    devices = 1 if trainer["devices"] == "auto" else device_count(trainer)
    inference = choose_execution(choose_device(trainer["accelerator"])).to_dict()
    return {"inference": inference, "devices": devices}


def _named(sections: list[tuple[str, Any, Any]]) -> list[Difference]:
    """Return a difference for every leaf in which the sections differ."""
    return [
        Difference(f"{section} {name}".strip(), _short(before), _short(here))
        for section, one, other in sections
        for name, before, here in changed_values(one, other)
    ]


def _files(run: Run, parse: Parse) -> tuple[Any, Any]:
    """Return the run's stored configuration, and the one that its command resolves to now."""
    stored = _stored_config(run)
    line = CommandLine.parse([str(word) for word in run.manifest().get("command", [])[2:]])
    try:
        today = parse(line)
    except InputError as error:
        return "as stored", str(error)
    parts = ("model", "data", "trainer", "seed_everything")
    return {name: stored.get(name) for name in parts}, {name: today.get(name) for name in parts}


def changed_values(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every leaf in which two nested values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            yield from changed_values(one.get(key), other.get(key), f"{name}.{key}".strip("."))
    elif one != other:
        yield name, one, other


def _short(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
