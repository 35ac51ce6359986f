"""Check that the systems of a benchmark are trained and tested under one protocol."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from errors import InputError
from studies.settings.protocol import PROTOCOL

Settings = Mapping[str, Any]

NEUTRAL = ("data.num_workers", "data.cache_dir", "data.images")  # settings that change no result
PATIENTS = (  # settings that decide which patients and slices are tested
    "data.class_path",
    "data.root",
    "data.patient",
    "data.protocol",
    "data.n_folds",
    "data.fold",
    "data.split_file",
    "data.split_by",
    "data.split_seed",
    "data.phantom_patients",
    "data.phantom_seed",
    "data.phantom_spacing",
    "data.drop",
    "data.selection",  # of slices
    "data.slices_per_patient",
    "data.slice_size",
)


def protocol_of(config: Settings) -> dict[str, Any]:
    """Return the settings of a resolved ``fit`` that belong to its protocol, not its network."""
    found = {"data.class_path": config["data"]["class_path"]}
    found |= {f"data.{name}": value for name, value in config["data"]["init_args"].items()}
    found |= {f"trainer.{name}": config["trainer"].get(name) for name in (*PROTOCOL, "callbacks")}
    found["seed_everything"] = config["seed_everything"]
    return {name: value for name, value in found.items() if name not in NEUTRAL}


def check_fair(
    given: Mapping[str, Settings], plain: Mapping[str, Settings], allowed: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Refuse a comparison in which a system's own overlays or options give it another protocol.

    Args:
        given: the protocol of every system, with its own overlays and options.
        plain: the same without them.
        allowed: settings that may differ.

    Returns:
        Every setting in which the systems still differ, because of their experiment files or
        because it is allowed, with the value of each system.

    Raises:
        InputError: when the comparison is unfair, naming the setting and the system.
    """
    names = sorted({name for settings in given.values() for name in settings})
    for system, settings in given.items():
        for name in names:
            if name in allowed or settings.get(name) == plain[system].get(name):
                continue
            for rival, theirs in given.items():
                if theirs.get(name) != settings.get(name):
                    raise InputError(
                        f"{system} is given {name} {settings.get(name)} and {rival} has "
                        f"{theirs.get(name)}, so the comparison would be unfair: give it to every "
                        f"experiment, or write {name} under allow_different."
                    )
    different = {
        name: {system: settings.get(name) for system, settings in given.items()}
        for name in names
        if any(
            settings.get(name) != next(iter(given.values())).get(name)
            for settings in given.values()
        )
    }
    for name in PATIENTS:
        if name in different and name not in allowed:
            values = ", ".join(f"{system} {value}" for system, value in different[name].items())
            raise InputError(
                f"The systems are not tested on the same patients, {name} differs ({values}): give "
                f"all of them one value, or write {name} under allow_different."
            )
    return different


def grouped(values: Mapping[str, Any]) -> str:
    """Return a setting in which systems differ in words: each value with the systems that have it.

    Args:
        values: the value of every system, in plain types.
    """
    systems: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    for system, value in values.items():
        systems.setdefault(str(value), []).append(system)
        words[str(value)] = _in_words(value)
    count = Counter(words.values())
    return ", ".join(
        f"{words[value] if count[words[value]] == 1 else value} ({', '.join(names)})"
        for value, names in systems.items()
    )


def _in_words(value: Any) -> str:
    """Return a value in short: of a class, and of each in a list, its name alone."""
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        return " and ".join(map(_in_words, value)) or "none"
    return "unset" if value is None else str(value)
