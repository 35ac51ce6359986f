"""Settings of a command on a trained model: those that choose its run, and those it applies."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.slices.random_split import PAPER_TEST_SHARE, is_by_slice
from datamodules.splits import TEST_SHARE, check_fold, make_split
from errors import InputError
from studies.runs.unused_options import check_typed, plain_name
from studies.settings.command_line import SECTIONS, CommandLine, read_settings
from studies.settings.protocol import PROTOCOL

SPLIT = ("n_folds", "fold", "split_seed", "split_file", "protocol", "split_by")
# Data settings that are fixed by training.
TRAINING = (
    *("class_path", "spacing", "normalisation", "patch_size", "batch_size", "patches_per_epoch"),
    *("augmentation", "modality_dropout", "healthy_share", "empty_fraction", "seed"),
    *("phantoms", "train_patients", "regions", "slices_per_epoch"),
)
MODEL_APPLIED = ("overlap", "precision", "postprocessing", "weights")  # may differ from training
PLACES = ("weights",)  # paths of files that the checkpoint identifies by content
GROUPS = (*SECTIONS, "seed_everything")


@dataclass(frozen=True)
class Setting:
    """A setting in a command or its files.

    Args:
        path: names from the group down, without ``init_args``.
        place: the option, or the file and key, for messages.
        overlay: stem of the file that sets it; None for an option.
    """

    path: tuple[str, ...]
    place: str
    overlay: str | None = None

    @property
    def name(self) -> str:
        """The path joined by dots."""
        return ".".join(self.path)

    @property
    def kind(self) -> str:
        """The role for a trained model: ``split``, ``training`` (both fixed) or ``applied``."""
        group, name = self.path[0], self.path[1] if len(self.path) > 1 else ""
        if group == "data" and name in SPLIT:
            return "split"
        if group == "seed_everything" or (group == "data" and name in TRAINING):
            return "training"
        if group == "model":
            return "applied" if name in MODEL_APPLIED else "training"
        if group == "trainer" and name in (*PROTOCOL, "callbacks"):
            return "training"
        return "applied"


@dataclass
class Trained:
    """The settings of a finished training, to compare with those of a command.

    Args:
        config: resolved configuration.
        split: the split, in plain types.
        overlays: stems of the overlay files.
    """

    config: Mapping[str, Any]
    split: Mapping[str, Any]
    overlays: Sequence[str]


@dataclass
class Request:
    """The settings of a command, and the configuration that they resolve to.

    Args:
        settings: settings that the command or its files name.
        resolved: configuration that ``fit`` would resolve them to.
    """

    settings: list[Setting]
    resolved: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse a split file or a fold that does not exist."""
        data = self.resolved["data"].get("init_args", {})
        file, n_folds = data.get("split_file"), data.get("n_folds")
        named = [one for one in self.settings if one.path == ("data", "split_file")]
        if named and file and not Path(file).expanduser().is_file():
            raise InputError(
                f"{named[-1].place}: there is no split file {file}: give an existing file or leave "
                "the option out."
            )
        if n_folds is not None and n_folds > 1:
            check_fold(data.get("fold", 0), n_folds)

    def missing(self, trained: Trained) -> list[Setting]:
        """Return the requested settings that a training does not have."""
        found = [
            one
            for one in self.settings
            if one.kind == "training"
            and not (one.overlay is not None and one.overlay in trained.overlays)
            and not self.holds(one, trained)
        ]
        split = [one for one in self.settings if one.kind == "split"]
        if split and not self._has_split(trained):
            found += split
        return found

    def holds(self, setting: Setting, trained: Trained) -> bool:
        """Whether a training had a setting with the requested value."""
        return bool(value_at(self.resolved, setting.path) == value_at(trained.config, setting.path))

    def alike(self, trained: Trained) -> int:
        """Return how many of the requested settings a training had, the applied ones included."""
        return sum(self.holds(one, trained) for one in self.settings)

    def changed_model(self, trained: Trained) -> list[str]:
        """Return the applied settings of the network that differ from training."""
        return sorted(
            f"{one.name}={json.dumps(value_at(self.resolved, one.path))}"
            for one in set(self.settings)
            if one.path[0] == "model"
            and one.kind == "applied"
            and one.path[1] not in (*PLACES, "postprocessing")
            and not self.holds(one, trained)
        )

    def named(self, settings: Sequence[Setting]) -> str:
        """Return settings with their values as text."""
        values = {one.name: value_at(self.resolved, one.path) for one in settings}
        return ", ".join(f"{name} {value}" for name, value in values.items())

    def _has_split(self, trained: Trained) -> bool:
        """Whether the requested settings give the split of a training."""
        requested = self.resolved["data"]["init_args"]
        stored = trained.split
        # a split file with equal test and validation parts implies the paper's protocol
        alike = stored.get("protocol", "default") == requested.get("protocol", "default")
        if not stored or not (alike or requested.get("split_file")):
            return False
        by_slice = is_by_slice(stored["test"], stored.get("hashes", {}))
        if by_slice != (requested.get("split_by", "patient") == "slice"):
            return False
        units = [*stored["train"], *stored["val"], *stored["test"]]
        patients = {name: name for name in units} if by_slice else stored.get("patients", {})
        added = stored.get("phantoms", [])
        patients = {name: one for name, one in patients.items() if name not in added}
        drawn = {*stored["train"], *stored.get("left_out", [])}.difference(added)
        try:
            made = make_split(
                patients,
                protocol=requested.get("protocol", "default"),
                n_folds=requested.get("n_folds"),
                fold=requested.get("fold", 0),
                split_file=requested.get("split_file"),
                seed=requested.get("split_seed", 0),
                test_share=PAPER_TEST_SHARE if by_slice else TEST_SHARE,
            )
        except InputError:
            return False
        parts = {"train": drawn, "val": stored["val"], "test": stored["test"]}
        return all(sorted(getattr(made, name)) == sorted(part) for name, part in parts.items())


def settings_of(line: CommandLine, *, experiment: bool) -> list[Setting]:
    """Return the settings in the options and overlays of a command line.

    Args:
        line: the command line.
        experiment: whether its first file is an experiment, of which only the split counts.
    """
    found = []
    for place, file in enumerate(line.configs):
        content = read_settings(file)
        is_experiment = experiment and place == 0
        for path in _leaves({name: content[name] for name in GROUPS if name in content}):
            one = Setting(path, f"{file}: {'.'.join(path)}", Path(file).stem)
            if not is_experiment or one.kind == "split":
                found.append(one)
    for name, words in line.options:
        group = plain_name(name).partition(".")[0]
        if group in GROUPS:
            text = " ".join(filter(None, [words[0].partition("=")[2], *words[1:]]))
            found += [Setting(path, f"--{name}") for path in _option_leaves(plain_name(name), text)]
    return found


def value_at(config: Any, path: Sequence[str]) -> Any:
    """Return the value at a path without ``init_args``; None where there is none."""
    for name in path:
        if isinstance(config, Mapping) and name not in config:
            config = config.get("init_args")
        if not isinstance(config, Mapping) or name not in config:
            return None
        config = config[name]
    return config


def applied_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in an overlay of a training that a test applies."""

    def kept(value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, Mapping):
            return value
        found = {}
        for name, inner in value.items():
            here = path if name == "init_args" else (*path, name)
            named = Setting(here, "")
            placed = here[:2] in {("model", "postprocessing"), ("model", "weights")}
            if len(here) > 1 and (named.kind != "applied" or placed):
                continue
            found[name] = kept(inner, here) if len(here) < 2 else inner
        return found

    return dict(kept({k: v for k, v in content.items() if k != "seed_everything"}, ()))


def applied_options(line: CommandLine) -> list[tuple[str, list[str]]]:
    """Return the options of a command line without those that only chose its run."""
    chose = {
        one.place.removeprefix("--")
        for one in settings_of(CommandLine([], line.options), experiment=False)
        if one.kind != "applied" or one.path[:2] == ("model", "postprocessing")
    }
    applied = {
        one.place.removeprefix("--")
        for one in settings_of(CommandLine([], line.options), experiment=False)
        if one.kind == "applied" and one.path[:2] != ("model", "postprocessing")
    }
    return [(name, words) for name, words in line.options if name not in chose - applied]


def check_variant(line: CommandLine) -> None:
    """Refuse a further test of a run with settings that are fixed by training.

    Raises:
        InputError: naming the setting.
    """
    check_typed("test", line)
    for one in settings_of(CommandLine([], line.options), experiment=False):
        if one.kind != "applied":
            raise InputError(
                f"{one.name} belongs to a training and changes no test of it: leave it out, or "
                "make it an experiment of its own."
            )


def _option_leaves(name: str, text: str) -> Iterator[tuple[str, ...]]:
    path = tuple(name.split("."))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if len(path) == 1 and isinstance(value, str):  # --data CLASS
        yield (*path, "class_path")
    elif isinstance(value, Mapping):
        for inner in _leaves(value):
            yield (*path, *inner)
    else:
        yield path


def _leaves(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        here = path if name == "init_args" else (*path, str(name))
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, here)
        elif here:
            yield here
