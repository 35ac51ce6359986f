"""Provenance of tested runs' scores: data, split, seeds, versions, read from their manifests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from backbones.sam.variants import caveats_in
from datamodules.nifti.headers import SYNTHETIC_TRAINING
from errors import InputError
from evaluation.metrics.scores import EMPTY_RULES
from evaluation.statistics.columns import SLICES
from evaluation.tables.provenance import Provenance
from lightning_modules.weights.foreign import doubt
from studies.runs.checkpoint_settings import settings_of_run
from studies.runs.exposure import only_synthetic
from studies.runs.run import never_found, run_at
from studies.scores.tested import EXTERNAL, Tested
from studies.settings.command_line import CommandLine, find_config

PACKAGES = ("gliofuse", "torch", "lightning", "monai", "python")
# Settings of a model that leave it the paper's own system: its scale and its training.
OF_SCALE = (
    *("size", "image_size", "weights", "optimizer", "scheduler"),
    *("output_rate", "colour_rate", "output_bias", "deep_supervision"),
)


@dataclass(frozen=True)
class Data:
    """The data that a run was tested on.

    Args:
        name: name in tables.
        synthetic: whether the data is known to be phantoms.
    """

    name: str
    synthetic: bool = False


def home_of(run: Tested) -> Path | None:
    """Return the folder of the run that a table belongs to, or None; tests lie in subfolders."""
    if not run.manifest and run.file.name != "per_case.csv":
        return None  # another tool's table, even inside a run's folder
    folders = run.file.resolve().parents
    return next((folder for folder in folders if (folder / "manifest.json").is_file()), None)


def is_as_published(manifest: Mapping[str, Any]) -> bool:
    """Whether a run trained the system of its experiment file, so that the paper's numbers apply.

    Overlays and options may set the scale and training of the model (`OF_SCALE`), nothing else. A
    run whose overlays are gone does not count, nor one of the 2D study with three regions.
    """
    if manifest.get("per_slice") and manifest.get("scores", {}).keys() - {"val/dice/WT"}:
        return False
    line = CommandLine.parse([str(word) for word in manifest.get("command", [])][2:])
    overlays = line.configs[1:]
    if len(overlays) < len(manifest.get("overlays", [])):
        return False
    touched = [
        name.removeprefix("model.").removeprefix("init_args.").partition(".")[0]
        for name, _ in line.options
        if name.partition(".")[0] == "model"
    ]
    for file in overlays:
        try:
            content = yaml.safe_load(find_config(file).read_text())
        except (InputError, OSError, ValueError, yaml.YAMLError):
            return False
        model = (content.get("model") if isinstance(content, dict) else None) or {}
        if not isinstance(model, dict):
            return False
        touched += [name for name in model if name != "init_args"]
        touched += model.get("init_args") or []
    return set(touched) <= set(OF_SCALE)


def provenance_of(tested: Sequence[Tested], remarks: Sequence[str] = ()) -> Provenance:
    """Return the provenance of runs' scores, for the footnotes of their table.

    Args:
        tested: runs, and tables of scores without a run.
        remarks: further sentences for the footnotes.
    """
    known = [run for run in tested if run.manifest]
    rules = list(dict.fromkeys(run.empty_rule for run in tested))
    versions = {
        package: _joined(run.manifest.get("versions", {}).get(package) for run in known)
        for package in PACKAGES
    }
    versions["commit"] = _joined(
        str(run.manifest.get("git", {}).get("commit", ""))[:10] for run in known
    )
    protocols = [str(run.settings["protocol"]) for run in known]
    splits = _joined(
        run.split.get("source") if protocol != "external" else "all patients of another cohort"
        for run, protocol in zip(known, protocols, strict=True)
    )
    named = [f"protocol {_joined(protocols)}"] if protocols else []
    unknown = [run.name for run in tested if not run.manifest]
    data = [_data_of(run) for run in known]
    notes = [*remarks, *_training_remarks(known), *_postprocessing_remarks(known)]
    notes += [*_origin_remarks(known), *_exposure_remarks(known), *_base_remarks(known)]
    notes += _failure_remarks(known)
    if unknown:
        notes.append(f"known from their tables alone: {', '.join(unknown)}")
    return Provenance(
        cohort=_joined(one.name for one in data) or "data not recorded",
        split="; ".join([*filter(None, [splits]), *named]),
        seeds=sorted({int(run.manifest["seed"]) for run in known if "seed" in run.manifest}),
        versions={name: version for name, version in versions.items() if version},
        empty_rule=_rules(rules, slices=False),
        slice_rule=_rules(rules, slices=True) if any(map(_has_slices, tested)) else "",
        synthetic=any(one.synthetic for one in data),
        selected=any(
            run.settings["protocol"] != "external"
            and set(run.split.get("val", [])) & set(run.split.get("test", []))
            for run in known
        ),
        remarks=notes,
    )


def _data_of(run: Tested) -> Data:
    """Name the data by its folder, layout and the beginning of its fingerprint."""
    if run.cohort.startswith(EXTERNAL):  # nothing but the fingerprint is kept
        return Data(f"cohort {run.cohort}")
    known, root = _root(run)
    mark = run.cohort[:12]
    if not known:
        return Data(f"folder not recorded, {mark}")
    if root is None:
        return Data(f"embedded phantom (SYNTHETIC), {mark}", synthetic=True)
    folder = Path(root).expanduser()
    layouts = " and ".join(run.split.get("layouts", []))
    synthetic = (folder / "SYNTHETIC.txt").is_file()  # written by `lightning phantom`
    details = ", ".join(filter(None, [layouts, "SYNTHETIC" if synthetic else ""]))
    return Data(f"{folder.name or root}{f' ({details})' if details else ''}, {mark}", synthetic)


def _root(run: Tested) -> tuple[bool, str | None]:
    """Return whether the training data is known, and its folder; None for phantoms."""
    home = home_of(run)
    try:
        config = yaml.safe_load((home / "config.yaml").read_text()) if home else None
        root = config["data"]["init_args"].get("root") if config else None
        if config:
            return True, None if root is None else str(root)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        pass  # read the command instead
    line = CommandLine.parse([str(word) for word in run.manifest.get("command", [])][2:])
    typed = [*line.pop("data.root"), *line.pop("data.init_args.root")]
    return bool(typed), typed[-1] if typed else None


def _has_slices(run: Tested) -> bool:
    return any(key.startswith(SLICES) for row in run.rows for key in row)


def _rules(names: Sequence[str], *, slices: bool) -> str:
    """Describe rules for empty regions; an unknown rule is given by its name alone."""
    found = []
    for name in names:
        rule = EMPTY_RULES.get(name)
        if rule is not None:
            found.append(rule.of_slices() if slices else str(rule))
        else:
            found.append(name or "not recorded")
    return " / ".join(found)


def _training_remarks(known: Sequence[Tested]) -> list[str]:
    """Name training settings in which the runs differ, which may explain their scores."""
    protocols = [run.manifest.get("determinants", {}).get("protocol", {}) for run in known]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    differing = [
        f"{key} {_joined(sorted(str(protocol.get(key)) for protocol in protocols))}"
        for key in keys
        if len({str(protocol.get(key)) for protocol in protocols}) > 1
    ]
    return [f"trained unlike: {', '.join(differing)}"] if differing else []


def _origin_remarks(known: Sequence[Tested]) -> list[str]:
    """Name the systems that saw phantoms only, where other patients are scored."""
    external = [run for run in known if run.settings["protocol"] == "external"]
    homes = {run.name: home_of(run) for run in external}
    names = [name for name, home in homes.items() if home is not None and _only_synthetic(home)]
    return [f"{SYNTHETIC_TRAINING}: {', '.join(names)}"] if names else []


def _only_synthetic(home: Path) -> bool:
    """Whether a run saw no patients but phantoms; those of earlier versions do not state it."""
    run = run_at(home)
    stated = run.manifest().get("synthetic")
    return only_synthetic({"config": settings_of_run(run).config}) if stated is None else stated


def _exposure_remarks(known: Sequence[Tested]) -> list[str]:
    """Name the systems with networks of which the training patients are not known."""
    names = {
        f"{run.name} ({', '.join(unknown)})": None
        for run in known
        if (unknown := run.manifest.get("foreign", {}).get("unknown"))
    }
    return [doubt(list(names))] if names else []


def _base_remarks(known: Sequence[Tested]) -> list[str]:
    """Name the systems whose frozen base makes their scores doubtful."""
    names: dict[str, list[str]] = {}
    for run in known:
        for remark in caveats_in(run.manifest.get("remarks", [])):
            if run.name not in names.setdefault(remark, []):
                names[remark].append(run.name)
    return [f"{', '.join(found)}: {remark}" for remark, found in names.items()]


def _failure_remarks(known: Sequence[Tested]) -> list[str]:
    """Name the trainings that found a region in no validation patient, which lowers a mean."""
    failed = {
        f"{run.name}, seed {run.manifest.get('seed')} ({', '.join(regions)})": None
        for run in known
        if (regions := never_found(run.manifest))
    }
    lead = "failed trainings, which found a region in no validation patient: "
    return [lead + "; ".join(failed)] if failed else []


def _postprocessing_remarks(known: Sequence[Tested]) -> list[str]:
    """Name the systems whose label maps are post-processed before they are scored."""
    rules: dict[str, list[str]] = {}
    for run in known:
        name = f"{run.name} ({run.test})" if run.test else run.name
        if run.postprocessing != "none" and name not in rules.setdefault(run.postprocessing, []):
            rules[run.postprocessing].append(name)
    return [f"post-processed, {', '.join(names)}: {rule}" for rule, names in rules.items()]


def _joined(values: Any) -> str:
    return " / ".join(dict.fromkeys(str(value) for value in values if value))
