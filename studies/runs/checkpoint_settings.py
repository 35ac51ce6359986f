"""Checkpoints for commands that use a trained model, and the settings they were trained with."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datamodules.cases.intensity import named
from errors import InputError
from lightning_modules.weights.checkpoints import read_card
from studies.runs.planning import postprocessing_of
from studies.runs.request import GROUPS, Request, Trained, settings_of, value_at
from studies.runs.run import Run, finished_runs
from studies.runs.unused_options import check_together
from studies.settings.command_line import CommandLine, find_file, read_settings
from studies.settings.regions import without_regions

# Data settings that must equal those of the training.
PREPARATION = ("spacing", "normalisation")
RULES = "model.postprocessing="  # prefix of an entry of `CheckpointSettings.model_words`
# Resolves a command line as ``fit`` does, over a configuration where one is given.
Resolve = Callable[[CommandLine, Mapping[str, Any] | None], dict[str, Any]]


@dataclass
class CheckpointSettings:
    """The checkpoints that ``validate``, ``test`` or ``predict`` use, and their settings.

    Args:
        checkpoints: one file, or several that form an ensemble.
        cards: the card of each.
        config: configuration of the first one's training, over which the command line is laid.
        run: the run of the first one.
        notice: a sentence on how they were chosen, to be printed.
        model_words: settings of the network that the command line changes.
        model: configuration of the network, with the requested post-processing.
    """

    checkpoints: list[Path]
    cards: list[dict[str, Any]]
    config: dict[str, Any]
    run: Run
    notice: str
    model_words: list[str] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)


def find_checkpoints(line: CommandLine, runs_dir: Path, resolve: Resolve) -> CheckpointSettings:
    """Find the checkpoints for a command line.

    Without ``--ckpt_path`` it is the newest finished run of the experiment whose split, training
    settings and network match those that the command names.

    Args:
        line: the command line; ``--ckpt_path`` and the experiment's file are removed from it.
        runs_dir: folder of all runs.
        resolve: resolves a command line as ``fit`` does.

    Raises:
        InputError: when there is none, when a checkpoint contradicts the command, or when the data
            of several is prepared differently.
    """
    given = [find_file(value) for value in line.pop("ckpt_path")]
    named, request, mentioned = bool(given), None, _mentions_rules(line)
    if named:
        notice = "Using " + ", ".join(str(path) for path in given)
    else:
        found, notice, request = _find(line, runs_dir, resolve)
        given = [found.best_checkpoint]
        line.configs = line.configs[1:]
    cards = [read_card(path) for path in given]
    card = cards[0]
    if card.get("config") is None:
        raise InputError(
            f"{given[0]} does not carry the configuration of its training: "
            "use a checkpoint that `lightning fit` wrote."
        )
    for path, other in zip(given[1:], cards[1:], strict=True):
        _check_alike(given[0], card, path, other)
    if named:
        request = _check_named(line, given, cards, resolve)
    experiment, run_id = card["run"]["experiment"], card["run"]["id"]
    home = given[0].resolve().parent.parent
    if not (home / "manifest.json").is_file():  # the file was moved out of its run's folder
        home = runs_dir / experiment / run_id
    model, words = card["model"], []
    if request is not None:
        trained = _of_card(card)
        words = request.changed_model(trained)
        if mentioned or _has_rules(Run(experiment, run_id, home)):
            model, stated = _postprocessed(model, request)
            notice += stated
            if stated:
                words = [*words, f"{RULES}{json.dumps(postprocessing_of(model))}"]
    run = Run(experiment, run_id, home)
    return CheckpointSettings(given, cards, card["config"], run, notice, words, model)


def _find(line: CommandLine, runs_dir: Path, resolve: Resolve) -> tuple[Run, str, Request | None]:
    """Return the newest finished run that matches a command, a sentence on it, and the request."""
    name, settings = line.experiment, settings_of(line, experiment=True)
    runs = finished_runs(runs_dir, name)
    notice = f"Using the newest finished run of {name}"
    if runs and not settings and not _mentions_rules(line) and not _has_rules(runs[0]):
        return runs[0], f"{notice}: {runs[0].best_checkpoint}", None
    request = Request(settings, resolve(_of_training(line), None))
    check_together(line, *(request.resolved[part]["init_args"] for part in ("data", "model")))
    known = [(run, settings_of_run(run)) for run in runs]
    fitting = [(run, one) for run, one in known if not request.missing(one)]
    if not fitting:
        raise InputError(_no_run(line, runs_dir, request, [one for _, one in known]))

    def nearness(trained: Trained) -> tuple[bool, int]:
        return set(line.overlays) <= set(trained.overlays), request.alike(trained)

    best = max(nearness(one) for _, one in fitting)
    run = next(run for run, one in fitting if nearness(one) == best)
    chosen = [one for one in settings if one.kind != "applied" and one.overlay is None]
    with_settings = f" with {request.named(chosen)}" if chosen else ""
    return run, f"{notice}{with_settings}: {run.best_checkpoint}", request


def _mentions_rules(line: CommandLine) -> bool:
    """Whether a command or one of its files sets post-processing."""
    options = any("postprocessing" in name for name, _ in line.options if name != "postprocessing")
    return options or any("postprocessing" in repr(read_settings(file)) for file in line.configs)


def _has_rules(run: Run) -> bool:
    """Whether a run was trained with post-processing set in its experiment's file."""
    manifest = run.manifest()
    by_option = any("postprocessing" in str(word) for word in manifest.get("command", []))
    return str(manifest.get("postprocessing", "none")) != "none" and not by_option


def _no_run(line: CommandLine, runs_dir: Path, request: Request, known: list[Trained]) -> str:
    """Return the error message where no run matches a command."""
    wanted = [one for one in request.settings if one.kind != "applied" and one.overlay is None]
    parts = [*line.overlays, *filter(None, [request.named(wanted)])]
    with_settings = f" with {', '.join(parts)}" if parts else ""
    start = f"There is no finished run of {line.experiment}{with_settings} below {runs_dir}"
    fit = f"`lightning fit --config {line.configs[0]}`"
    if not known:
        return f"{start}: train one with {fit}, or give --ckpt_path."
    lacking = min((request.missing(one) for one in known), key=len)
    if all(one.kind == "split" for one in lacking):
        there = dict.fromkeys(str(one.split.get("source", "unknown")) for one in known)
        stated = f"the splits of those there are: {'; '.join(there)}"
    else:
        names = dict.fromkeys(one for one in lacking if one.kind == "training")
        stated = "those there are have " + "; ".join(
            f"{one.name} {' or '.join(_values(one.path, known))}" for one in names
        )
    return (
        f"{start} ({stated}): give the settings of one of them, or train it with {fit} and the "
        "same options."
    )


def _values(path: tuple[str, ...], known: list[Trained]) -> list[str]:
    return list(dict.fromkeys(str(value_at(one.config, path)) for one in known))


def _check_named(
    line: CommandLine, given: list[Path], cards: list[dict[str, Any]], resolve: Resolve
) -> Request | None:
    """Check the settings of a command against the checkpoints that it names.

    Raises:
        InputError: when a checkpoint was trained with other settings.
    """
    first = cards[0]
    if line.configs and "class_path" in (read_settings(line.configs[0]).get("model") or {}):
        if line.experiment != first["run"]["experiment"]:
            raise InputError(
                f"--config {line.configs[0]} is another experiment than that of {given[0]}, "
                f"{first['run']['experiment']}: leave one of both out."
            )
        experiment = True
    else:
        experiment = False
    settings = settings_of(line, experiment=experiment)
    harmless = all(one.kind == "applied" and one.path[0] != "model" for one in settings)
    if harmless and not experiment:  # such as the folder of the data
        return None
    below = None if experiment else {name: first["config"].get(name) for name in GROUPS}
    if below is not None:
        below["model"] = without_regions(below["model"])
    request = Request(settings, resolve(_of_training(line), below))
    check_together(line, *(request.resolved[part]["init_args"] for part in ("data", "model")))
    if experiment:
        line.configs = line.configs[1:]
    for path, card in zip(given, cards, strict=True):
        trained = _of_card(card)
        wrong = request.missing(trained)
        if not wrong:
            continue
        one = wrong[0]
        there = value_at(trained.config, one.path)
        if one.kind == "split":
            there = f"{there} ({trained.split.get('source', 'unknown')})"
        raise InputError(
            f"{one.place} is {value_at(request.resolved, one.path)}, and {path} was trained with "
            f"{there}: leave {one.name} as the checkpoint has it, or give another checkpoint."
        )
    return request


def _of_training(line: CommandLine) -> CommandLine:
    """Return a command line without the options that ``fit`` does not have."""
    kept = [(name, words) for name, words in line.options if name.partition(".")[0] in GROUPS]
    return CommandLine(list(line.configs), kept)


def settings_of_run(run: Run) -> Trained:
    """Return the settings of a run's training from its folder; empty where files are missing."""
    manifest = run.manifest()
    config: Any = None
    split: Any = None
    try:
        config = yaml.safe_load((run.folder / "config.yaml").read_text())
        split = json.loads((run.folder / "split.json").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        pass  # a run without these files matches no requested setting
    config, split = (found if isinstance(found, dict) else {} for found in (config, split))
    return Trained(config, split, manifest.get("overlays", []))


def _of_card(card: dict[str, Any]) -> Trained:
    return Trained(card["config"], card.get("split", {}), card.get("overlays", []))


def _postprocessed(model: dict[str, Any], request: Request) -> tuple[dict[str, Any], str]:
    """Return a network's configuration with the requested post-processing, and a notice.

    Post-processing acts after training, so trainings that differ only in it share one run. The
    experiment of this command decides, not the one that trained the run.
    """
    requested, trained = postprocessing_of(request.resolved["model"]), postprocessing_of(model)
    if requested == trained or "postprocessing" not in model["init_args"]:
        return model, ""
    changed = {**model, "init_args": {**model["init_args"], "postprocessing": requested}}
    return changed, (
        f"; post-processed as this command's experiment says ({requested or 'not at all'}), not as "
        f"the one that trained it did ({trained or 'not at all'})"
    )


def stated(described: Mapping[str, Any], name: str) -> Any:
    """Return a setting of `PREPARATION` as a user gives it, of the data that a card describes."""
    value = described.get(name)
    return named(value) if name == "normalisation" else value


def _check_alike(path: Path, card: dict[str, Any], second: Path, other: dict[str, Any]) -> None:
    """Refuse an ensemble whose members segment other regions or have differently prepared data."""
    if card["regions"] != other["regions"]:
        raise InputError(
            f"{second} segments {', '.join(other['regions'])} and {path} "
            f"{', '.join(card['regions'])}: an ensemble needs members of the same regions."
        )
    for name in PREPARATION:
        if card["data"].get(name) != other["data"].get(name):
            raise InputError(
                f"{second} was trained at {name} {stated(other['data'], name)} and {path} at "
                f"{stated(card['data'], name)}: an ensemble needs members whose data is prepared "
                "alike."
            )


def check_preparation(card: dict[str, Any], identity: dict[str, Any], path: Path) -> None:
    """Refuse data that is prepared differently from the model's training data.

    Raises:
        InputError: naming the setting.
    """
    for name in PREPARATION:
        if card["data"].get(name) != identity.get(name):
            raise InputError(
                f"{path} was trained at {name} {stated(card['data'], name)}, the requested data "
                f"has {name} {stated(identity, name)}: leave data.{name} as the checkpoint has it."
            )
