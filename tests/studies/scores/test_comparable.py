"""Runs beside a run of the 2D study: the same data, split, seed and regions."""

import json

from studies.runs.run import Run
from studies.scores.comparable import compared


def finished(folder, experiment, regions):
    home = folder / experiment / "-".join(regions)
    home.mkdir(parents=True)
    manifest = {
        "status": "finished",
        "experiment": experiment,
        "id": f"{experiment}-{len(regions)}",
        "finished_at": "2026-01-01",
        "per_slice": True,
        "validation_cases": [{"case_id": "a"}],
        "scores": {f"val/dice/{region}": 0.5 for region in regions},
        "parameters": {"all": 2, "trained": 1},
        "cohort": "ab",
        "voxels": "cd",
        "seed": 0,
        "determinants": {"data": {"spacing": 1.0}},
    }
    (home / "manifest.json").write_text(json.dumps(manifest))
    return Run(experiment, manifest["id"], home)


def test_a_table_holds_systems_of_the_same_regions(tmp_path):
    three = ("WT", "TC", "ET")
    for experiment in ("transunet", "sam_t1"):
        finished(tmp_path, experiment, ("WT",))
    finished(tmp_path, "transunet", three)
    one, several = (finished(tmp_path, "sam_adapter", regions) for regions in (("WT",), three))
    assert [row["system"] for row in compared(one)] == ["sam_adapter", "sam_t1", "transunet"]
    assert [row["system"] for row in compared(several)] == ["sam_adapter", "transunet"]
