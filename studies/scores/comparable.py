"""Find runs that may share a table: the same patients, split, seed and regions."""

import json
from collections.abc import Collection
from typing import Any

from backbones.sam.variants import caveats_in
from studies.runs.run import Run, same_cohort


def compared(run: Run) -> list[dict[str, Any]]:
    """Return a run of the 2D study and the latest comparable run of every other experiment.

    Args:
        run: a finished run in ``<runs>/<experiment>/<id>``.

    Returns:
        For each run ``system``, ``parameters``, ``validation`` (Dice of the whole tumour), ``test``
        (mean scores, None if untested), ``this``, whether it is the given run, and ``caveats``,
        the remarks that belong beside its scores.
    """
    own = run.manifest()
    if not own.get("per_slice") or not own.get("validation_cases"):
        return []
    latest: dict[str, dict[str, Any]] = {}
    for file in run.folder.parents[1].glob("*/*/manifest.json"):
        try:
            manifest = json.loads(file.read_text())
        except (OSError, json.JSONDecodeError):
            continue  # being written, or not this program's
        replaced = ".replaced-" in file.parent.name
        if replaced or manifest.get("id") == own["id"] or not _comparable(manifest, own):
            continue
        name = system_name(manifest)
        if manifest.get("finished_at", "") > latest.get(name, {}).get("finished_at", ""):
            latest[name] = manifest
    latest[system_name(own)] = own
    # overlays that all runs share distinguish none of them
    shared = set.intersection(*(set(manifest.get("overlays", [])) for manifest in latest.values()))
    return [
        {
            "system": system_name(manifest, shared),
            "parameters": manifest["parameters"],
            "validation": manifest["scores"]["val/dice/WT"],
            "test": manifest.get("test_scores"),
            "this": manifest["id"] == own["id"],
            "caveats": caveats_in(manifest.get("remarks", [])),
        }
        for _, manifest in sorted(latest.items())
    ]


def system_name(manifest: dict[str, Any], without: Collection[str] = ()) -> str:
    """Return the name of a system in tables: its experiment with the overlays."""
    overlays = [name for name in manifest.get("overlays", []) if name not in without]
    return " + ".join([manifest["experiment"], *overlays])


def _comparable(manifest: dict[str, Any], own: dict[str, Any]) -> bool:
    if manifest.get("status") != "finished" or not manifest.get("validation_cases"):
        return False
    if not manifest.get("per_slice") or not same_cohort(manifest, own):
        return False
    if manifest["scores"].keys() != own["scores"].keys():  # other regions
        return False
    theirs, ours = (m.get("determinants", {}).get("data", {}) for m in (manifest, own))
    return bool(theirs == ours and manifest.get("seed") == own.get("seed"))
