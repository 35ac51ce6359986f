"""Where the numbers of tested runs come from, read from their manifests and splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.metrics import EMPTY_RULES
from evaluation.provenance import Provenance
from studies.arguments import CommandLine
from studies.compared_runs import Tested

PACKAGES = ("gliofuse", "torch", "lightning", "monai", "python")


def provenance_of(tested: Sequence[Tested], remarks: Sequence[str] = ()) -> Provenance:
    """Return where the numbers of these runs come from, for the footnotes of their table.

    Args:
        tested: the runs, some maybe known from their tables alone.
        remarks: sentences that go along.
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
    notes = [*remarks, *_training_remarks(known), *_postprocessing_remarks(known)]
    if unknown:
        notes.append(f"known from their tables alone: {', '.join(unknown)}")
    return Provenance(
        cohort=_joined(_cohort(run) for run in known) or "data not recorded",
        split="; ".join([*filter(None, [splits]), *named]),
        seeds=sorted({int(run.manifest["seed"]) for run in known if "seed" in run.manifest}),
        versions={name: version for name, version in versions.items() if version},
        empty_rule=" / ".join(
            str(EMPTY_RULES.get(rule, rule)) if rule else "not recorded" for rule in rules
        ),
        selected=any(
            run.settings["protocol"] != "external"
            and set(run.split.get("val", [])) & set(run.split.get("test", []))
            for run in known
        ),
        remarks=notes,
    )


def _cohort(run: Tested) -> str:
    """Name the data: its folder or layout, and the beginning of its fingerprint."""
    if run.settings["protocol"] == "external":
        return f"cohort {run.cohort}"
    typed = [str(word) for word in run.manifest.get("command", [])]
    roots = CommandLine.parse(typed[2:]).pop("data.root")  # after `lightning fit`
    layouts = " and ".join(run.split.get("layouts", []))
    name = Path(roots[-1]).name if roots else "embedded phantom (SYNTHETIC)"
    return f"{name}{f' ({layouts})' if roots and layouts else ''}, {run.cohort[:12]}"


def _training_remarks(known: Sequence[Tested]) -> list[str]:
    """Name settings of the trainings that were not alike: scores may differ for them alone."""
    protocols = [run.manifest.get("determinants", {}).get("protocol", {}) for run in known]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    differing = [
        f"{key} {_joined(str(protocol.get(key)) for protocol in protocols)}"
        for key in keys
        if len({str(protocol.get(key)) for protocol in protocols}) > 1
    ]
    return [f"trained unlike: {', '.join(differing)}"] if differing else []


def _postprocessing_remarks(known: Sequence[Tested]) -> list[str]:
    """Name the systems whose label maps are changed by rules before they are scored."""
    rules: dict[str, list[str]] = {}
    for run in known:
        rule = str(run.manifest.get("postprocessing", "none"))
        if rule != "none" and run.name not in rules.setdefault(rule, []):
            rules[rule].append(run.name)
    return [f"post-processed, {', '.join(names)}: {rule}" for rule, names in rules.items()]


def _joined(values: Any) -> str:
    return " / ".join(dict.fromkeys(str(value) for value in values if value))
