"""Settings of a training that follow from the foreign networks it starts from."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import locate
from typing import Any

from datamodules.cases.cache import default_cache
from errors import InputError
from lightning_modules import BackboneModule, FusionModule
from studies.runs.foreign.networks import KINDS, Converted, convert, is_foreign
from studies.runs.request import settings_of
from studies.settings.command_line import CommandLine

Convert = Callable[[str, Path, Path | None], Converted]
# Networks of this project whose place a network of nnU-Net takes, by its kind of encoder.
REPLACED = {False: "DynUNet", True: "ResidualEncoderUNet"}
PLANNED = "PlannedUNet"


@dataclass
class Adoption:
    """Foreign networks of a training, and what it takes over from them.

    Args:
        networks: the networks by the paths that the configuration has.
        notes: sentences on settings that were taken over.
        options: these settings as options, for stages that are trained first.
        model: names of the model's settings among them.
    """

    networks: dict[str, Converted] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    options: list[tuple[str, list[str]]] = field(default_factory=list)
    model: set[str] = field(default_factory=set)

    def upstream(self, line: CommandLine, experiment: str) -> CommandLine:
        """Return the command line of a stage, with the settings that were taken over."""
        return CommandLine(line.configs, [*line.options, *self.options]).upstream(experiment)

    def described(self) -> dict[str, Any]:
        """Return the networks as a manifest names them, by their paths."""
        return {
            text: {"name": one.name, "sha256": one.digest, "trained_on": one.ids and str(one.ids)}
            for text, one in self.networks.items()
        }


def adopt(line: CommandLine, config: dict[str, Any], convert: Convert = convert) -> Adoption:
    """Find the foreign networks of a configuration and take over the settings they need.

    Settings that the command line or an overlay gives are kept, or refused where the networks
    cannot do with them.

    Args:
        line: the command line.
        config: the resolved configuration, changed in place.
        convert: converts a network.

    Raises:
        InputError: when a network cannot be used, or not with the others or the given settings.
    """
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    texts = list(dict.fromkeys(_foreign(config["model"])))
    given = model.get("trained_on")
    if not texts:
        if given is not None:
            raise InputError(
                f"model.trained_on {given} has no effect without a network of another project: "
                f"leave it out, or name {KINDS} as model.backbones or model.weights."
            )
        return Adoption()
    cache = data.get("cache_dir")
    cache = Path(cache).expanduser() if cache else default_cache()
    ids = None if given is None else Path(given).expanduser()
    networks = {text: convert(text, cache, ids) for text in texts}
    if ids is not None and all(one.ids != ids for one in networks.values()):
        raise InputError(
            f"model.trained_on {given} has no effect, as every network has a file of its own "
            f"({', '.join(str(one.ids) for one in networks.values())}): leave one of them out."
        )
    adoption = Adoption(networks)
    typed = {one.name: one.place for one in settings_of(line, experiment=True)}
    _take_over(adoption, _Settings(config, typed, adoption))
    return adoption


def _foreign(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of foreign networks in the configuration of a model."""
    kind, arguments = locate(str(model["class_path"])), model["init_args"]
    if not isinstance(kind, type):
        return
    named = []
    if issubclass(kind, FusionModule):
        named = list(arguments.get("backbones") or [])
    elif issubclass(kind, BackboneModule):
        named = [arguments["weights"]] if arguments.get("weights") else []
    yield from (text for text in named if is_foreign(text))


@dataclass
class _Settings:
    """A configuration in which settings are taken over, unless they were given."""

    config: dict[str, Any]
    typed: Mapping[str, str]
    adoption: Adoption

    def value(self, group: str, name: str) -> Any:
        return self.config[group]["init_args"].get(name)

    def set(self, group: str, name: str, value: Any, owner: str, *, kept: bool = False) -> None:
        """Take over a value.

        Args:
            group: data or model.
            name: the setting.
            value: what the networks need.
            owner: the networks, for messages.
            kept: whether another value that was given may stay.
        """
        full, arguments = f"{group}.{name}", self.config[group]["init_args"]
        if name not in arguments:
            raise InputError(
                f"{owner} was trained at {full} {value}, which {self.config[group]['class_path']} "
                "does not have: give the network to an experiment of the 3D study."
            )
        found = arguments[name]
        if found == value:
            return
        place = self.typed.get(full)
        if place and not kept:
            raise InputError(
                f"{place} is {found}, but {owner} has {value}: leave it out there, and "
                "it is taken over."
            )
        if place:
            self.adoption.notes.append(
                f"{full} is {found} by {place}, {owner} has {value}, and its scores may differ."
            )
            return
        arguments[name] = value
        self.adoption.model |= {name} if group == "model" else set()
        self.adoption.notes.append(f"{full} is {value}, taken over from {owner} ({found} before).")
        word = value if isinstance(value, str) else json.dumps(value)
        self.adoption.options.append((full, [f"--{full}={word}"]))


def _take_over(adoption: Adoption, settings: _Settings) -> None:
    networks = list(adoption.networks.values())
    for one in networks:
        adoption.notes += [f"{note}." for note in one.card["foreign"]["notes"]]
        if settings.value("model", "weights") == one.text:
            _take_network(one, settings)
    sized = {one.card["model"]["init_args"]["size"]: one for one in networks if _has_sizes(one)}
    if len(sized) > 1:
        first, other = sized.values()
        raise InputError(
            f"{first.text} and {other.text} are networks of the sizes {' and '.join(sized)}: fuse "
            "networks of one size."
        )
    for size, one in sized.items():
        settings.set("model", "size", size, one.name)
    _take_images(networks, settings)


def _take_images(networks: Sequence[Converted], settings: _Settings) -> None:
    """Take over spacing, z-scores and window, which all networks have to share."""
    first = networks[0]
    spacings = {one.text: one.card["data"]["spacing"] for one in networks}
    other = next((text for text, edge in spacings.items() if edge != spacings[first.text]), None)
    if other is not None:
        raise InputError(
            f"{first.text} was trained at a spacing of {spacings[first.text]:g} mm and {other} at "
            f"{spacings[other]:g} mm, and networks that take other images cannot be fused: leave "
            "one of them out."
        )
    settings.set("data", "spacing", spacings[first.text], first.name)
    kinds = {one.card["foreign"]["normalisation"]: one for one in networks}
    chosen = "brain" if "brain" in kinds else "nonzero"
    settings.set("data", "normalisation", chosen, kinds[chosen].name)
    if len(kinds) > 1:
        settings.adoption.notes.append(
            f"{kinds['nonzero'].name} was trained on z-scores over each modality's own non-zero "
            "voxels, which are the same in patients of whom no modality is 0 inside the brain."
        )
    windows = [one for one in networks if one.card["patch_size"]]
    if windows:
        least = min(windows, key=lambda one: math.prod(one.card["patch_size"]))
        settings.set("data", "patch_size", least.card["patch_size"], least.name, kept=True)


def _take_network(one: Converted, settings: _Settings) -> None:
    """Put a foreign network into the place of the one that an experiment trains from scratch."""
    arguments = settings.config["model"]["init_args"]
    spec = one.card["model"]["init_args"]["network"]
    wanted = spec["class_path"].rpartition(".")[2]
    options = spec.get("init_args") or {}
    fitting = {wanted} if wanted != PLANNED else {PLANNED, REPLACED[bool(options["residual"])]}
    present = arguments["network"]
    found = str(present["class_path"]).rpartition(".")[2]
    if found not in fitting:
        own = REPLACED[bool(options["residual"])] if wanted == PLANNED else wanted
        raise InputError(
            f"{one.text} holds a {wanted} ({one.name}), and model.network is {found}: add "
            f"--model.network backbones.{own}, or take an experiment of that network."
        )
    set_here = {name: v for name, v in (present.get("init_args") or {}).items() if v is not None}
    if set_here in ({}, options):
        arguments["network"] = spec
        settings.adoption.model.add("network")
    else:
        raise InputError(
            f"model.network has {', '.join(set_here)} set beside the weights {one.text}, which "
            "have that of their own: leave it out."
        )
    if found != wanted:
        settings.adoption.notes.append(
            f"model.network is backbones.{wanted} as {one.name} has it, not {found}."
        )


def _has_sizes(one: Converted) -> bool:
    """Whether the network of a checkpoint has named sizes, which a fusion has to share."""
    network = locate(one.card["model"]["init_args"]["network"]["class_path"])
    return bool(getattr(network, "has_sizes", True))
