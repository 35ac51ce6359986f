"""Read a benchmark file: its systems, folds, seeds, tests and tables."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from datamodules.layouts.conventions import REGIONS
from errors import InputError
from files import UniqueKeys
from studies.jobs.graph import Variant
from studies.settings.command_line import find_config, read_settings

KEYS = (
    "name",
    "reference",
    "experiments",
    "n_folds",
    "folds",
    "seeds",
    "overlays",
    "options",
    "train_patients",
    "test",
    "tables",
    "allow_different",
)
ENTRY_KEYS = ("file", "label", "line", "overlays", "options")
TABLE_KEYS = ("title", "experiments", "metrics", "regions", "scope", "variants", "published")
PATIENTS = "data.train_patients"  # the option that `train_patients` crosses the systems with
TEST_OPTIONS = ("data", "model", "trainer", "rule", "postprocessing")  # first parts of the names
METRICS = (
    "dice",
    "hd95",
    "nsd",
    "sensitivity",
    "precision",
    "volume_error_ml",
    "lesion_dice",
    "lesion_hd95",
)
SCOPES = ("volumes", "slices")


@dataclass(frozen=True)
class Entry:
    """A system of a benchmark: an experiment with its overlays and options.

    Args:
        system: its name in every table, the label or ``experiment + overlay``.
        file: the experiment file.
        overlays: overlay files of this experiment alone.
        options: command-line words of this experiment alone.
        line: name of its line in a curve over the number of patients trained on; empty: the
            experiment's.
    """

    system: str
    file: str
    overlays: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    line: str = ""


@dataclass
class Benchmark:
    """The content of a benchmark file.

    Args:
        name: name of the benchmark and its folder.
        file: path of the file.
        entries: the systems.
        reference: the system that the others are compared with.
        n_folds: number of folds of cross-validation; None: the one default split.
        folds: folds that are used.
        seeds: seeds of initial weights, patches and augmentation.
        overlays: overlay files of every experiment.
        options: command-line words of every experiment.
        variants: further tests of every system.
        tables: the requested tables as written, checked.
        allow_different: settings of the protocol in which the file lets systems differ.
    """

    name: str
    file: Path
    entries: list[Entry]
    reference: str
    n_folds: int | None = None
    folds: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    overlays: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    variants: list[Variant] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    allow_different: list[str] = field(default_factory=list)

    @property
    def systems(self) -> list[str]:
        """Names of the systems in their order."""
        return [entry.system for entry in self.entries]


def read_benchmark(file: str) -> Benchmark:
    """Read a benchmark file and check all of it.

    Raises:
        InputError: when a key or value is wrong, with what was expected.
    """
    path = find_config(file)
    content = read_mapping(path)
    only_keys(content, KEYS, str(path))
    entries = [_entry(item, path) for item in as_list(content, "experiments", path)]
    allowed = [str(name) for name in as_list(content, "allow_different", path)]
    if content.get("train_patients") is not None:
        entries = _over_patients(entries, content["train_patients"], path)
        allowed.append(PATIENTS)
    if not entries:
        raise InputError(f"{path} names no experiments: list their files under experiments.")
    systems = [entry.system for entry in entries]
    for name in systems:
        if systems.count(name) > 1:
            raise InputError(f"{path} has two systems called {name}: give each a label of its own.")
    n_folds, folds = _folds(content, path)
    benchmark = Benchmark(
        name=_name(content.get("name") or path.stem, f"{path}: name"),
        file=path,
        entries=entries,
        reference=_reference(content, entries, path),
        n_folds=n_folds,
        folds=folds,
        seeds=integers(content.get("seeds", [0]), f"{path}: seeds", largest=2**32 - 1),
        overlays=_files(content, path),
        options=option_words(content.get("options") or {}, str(path)),
        variants=[_variant(item, path) for item in as_list(content, "test", path)],
        tables=as_list(content, "tables", path),
        allow_different=allowed,
    )
    for table in benchmark.tables:
        _check_table(table, benchmark)
    for variant in benchmark.variants:
        if benchmark.variants.count(variant) > 1:
            raise InputError(f"{path} has the test {variant.name} twice: leave one of them.")
    return benchmark


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file that holds a mapping.

    Raises:
        InputError: when it holds none.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no YAML, fix it: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no keys: see the examples in experiments/benchmarks/.")
    return content


def only_keys(content: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse an unknown key.

    Raises:
        InputError: when there is one, naming it.
    """
    for key in content:
        if key not in known:
            raise InputError(f"{where} has the unknown key {key}: expected {', '.join(known)}.")


def as_list(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    """Return the list under a key of a file; empty if the key is absent.

    Raises:
        InputError: when the value is no list.
    """
    value = content.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} is {value!r}, expected a list.")
    return value


def option_words(options: Any, where: str) -> list[str]:
    """Return options such as ``{data.batch_size: 4}`` as command-line words.

    Raises:
        InputError: when it is not a mapping.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"{where}: options is {options!r}, expected keys such as data.batch_size.")
    return [f"--{name}={option_text(value)}" for name, value in options.items()]


def option_text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def integers(value: Any, where: str, largest: float = math.inf) -> list[int]:
    """Return a whole number from 0, or a list of them, as a list.

    Raises:
        InputError: when it is something else, empty, or holds a number twice.
    """
    numbers = value if isinstance(value, list) else [value]
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise InputError(f"{where} is {value!r}, expected different whole numbers such as [0, 1].")
    if not all(0 <= number <= largest for number in numbers):
        most = "" if math.isinf(largest) else f" to {largest}"
        raise InputError(f"{where} is {value!r}, expected numbers from 0{most}.")
    return numbers


def _name(value: Any, where: str) -> str:
    """Return a value as the name of a folder.

    Raises:
        InputError: when no folder can have that name.
    """
    name = str(value)
    if not name.strip(" .") or set(name) & set("/\\\0"):
        raise InputError(
            f"{where} is {name!r}: it names a folder, so expected no / and no dots alone."
        )
    return name


def _entry(item: Any, path: Path) -> Entry:
    described = {"file": item} if isinstance(item, str) else item
    if not isinstance(described, Mapping) or "file" not in described:
        raise InputError(
            f"{path}: experiments holds {item!r}, expected a file or keys {', '.join(ENTRY_KEYS)}."
        )
    only_keys(described, ENTRY_KEYS, f"{path}: an experiment")
    file = str(described["file"])
    read_settings(file)
    overlays = _files(described, path)
    system = described.get("label") or " + ".join(Path(name).stem for name in [file, *overlays])
    options = option_words(described.get("options") or {}, f"{path}: {system}")
    line = str(described.get("line") or "")
    return Entry(str(system), file, tuple(overlays), tuple(options), line)


def _over_patients(entries: list[Entry], given: Any, path: Path) -> list[Entry]:
    """Return every system once for each number of patients, a line of the curve each."""
    numbers = integers(given, f"{path}: train_patients")
    for entry in entries:
        if any(PATIENTS in word.replace("init_args.", "") for word in entry.options):
            raise InputError(
                f"{path}: {entry.system} has {PATIENTS} of its own, and train_patients gives it to "
                "every experiment: leave one of them out."
            )
    return [
        replace(
            entry,
            system=f"{entry.system}, {number}",
            options=(*entry.options, f"--{PATIENTS}={number}"),
            line=entry.line or entry.system,
        )
        for entry in entries
        for number in numbers
    ]


def _files(content: Mapping[str, Any], path: Path) -> list[str]:
    files = [str(name) for name in as_list(content, "overlays", path)]
    for name in files:
        read_settings(name)
    return files


def _reference(content: Mapping[str, Any], entries: list[Entry], path: Path) -> str:
    wanted = content.get("reference")
    for entry in entries:
        if wanted in (entry.system, entry.file, Path(entry.file).stem):
            return entry.system
    names = ", ".join(entry.system for entry in entries)
    raise InputError(f"{path}: reference is {wanted}, expected one of its systems: {names}.")


def _folds(content: Mapping[str, Any], path: Path) -> tuple[int | None, list[int]]:
    """Return the number of folds and the folds to use; ``folds: 5`` uses all five."""
    folds, n_folds = content.get("folds"), content.get("n_folds")
    if folds is None and n_folds is None:
        return None, []
    if n_folds is None and isinstance(folds, int):
        n_folds, folds = folds, None
    if not isinstance(n_folds, int) or isinstance(n_folds, bool) or n_folds < 2:
        raise InputError(
            f"{path}: folds is {folds!r} and n_folds {n_folds!r}, expected folds: 5 or another "
            "number from 2, or n_folds: 5 with the list of those used."
        )
    return n_folds, integers(list(range(n_folds)) if folds is None else folds, f"{path}: folds")


def _variant(item: Any, path: Path) -> Variant:
    if not isinstance(item, Mapping) or not item.get("name") or not item.get("options"):
        raise InputError(f"{path}: test holds {item!r}, expected keys name and options.")
    only_keys(item, ("name", "options"), f"{path}: test")
    name = _name(item["name"], f"{path}: test")
    words = option_words(item["options"], f"{path}: test {name}")
    for option in item["options"]:
        if str(option).partition(".")[0] not in TEST_OPTIONS:
            raise InputError(
                f"{path}: test {name} has the unknown option {option}: expected data.*, model.*, "
                "trainer.*, rule or postprocessing."
            )
    return Variant(name, tuple(words))


def _check_table(table: Any, benchmark: Benchmark) -> None:
    where = f"{benchmark.file}: tables"
    if not isinstance(table, Mapping) or "title" not in table:
        raise InputError(f"{where} holds {table!r}, expected keys {', '.join(TABLE_KEYS)}.")
    only_keys(table, TABLE_KEYS, where)
    known = {
        "experiments": benchmark.systems,
        "metrics": METRICS,
        "regions": REGIONS,
        "variants": [variant.name for variant in benchmark.variants],
    }
    for key, names in known.items():
        for name in as_list(table, key, benchmark.file):
            if name not in names:
                raise InputError(
                    f"{where}: {table['title']} names {name} under {key}, expected some of "
                    f"{', '.join(names)}."
                )
    if not isinstance(table.get("published", False), bool):
        raise InputError(f"{where}: published is {table['published']}, expected true or false.")
    if table.get("scope", "volumes") not in SCOPES:
        raise InputError(f"{where}: scope is {table['scope']}, expected volumes or slices.")
