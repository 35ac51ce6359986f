"""The adapter and its rivals on slices of real patients, leaving two out at a time.

    python -m speed.evidence.adapter_on_patients --place FOLDER --data.root DIR [--data.layout FILE]
        [--seeds 0] [--out FOLDER]

DIR and FILE are absolute, as the benchmark runs in FOLDER; how patients of several BraTS years
become one cohort, experiments/benchmarks/few_real.yaml says. It takes all patients of DIR, four
folds of two each where there are eight, and 24 slices a patient: FLAIR alone, early fusion,
low-rank matrices and the adapter, all on MobileSAM, and TransUNet by its own recipe and by theirs.
Every other setting is that of the experiment files, which were chosen on phantoms. Scores are those
of selected slices and of whole volumes, compared in pairs over patients. With so few of them no
number of it is a clinical claim.
"""

from typing import Any

from speed.evidence.adapter_on_phantoms import COLUMNS, REFERENCE
from speed.evidence.study import Seeds, means_of, rows_of, run_study, tests_against
from studies.settings.command_line import ROOT

SYSTEMS = ("sam_flair", "sam_early_fusion", "sam_low_rank", "transunet", REFERENCE)
SAME_RECIPE = {
    "file": "experiments/transunet.yaml",
    "overlays": ["experiments/scale/same_recipe.yaml"],
}
FILE = {
    "name": "adapter_on_patients",
    "reference": f"experiments/{REFERENCE}.yaml",
    "folds": 4,
    "options": {"data.slices_per_patient": 24},
    "experiments": [*(f"experiments/{name}.yaml" for name in SYSTEMS), SAME_RECIPE],
    "tables": [{"title": "Patients", "metrics": ["dice", "hd95"], "scope": "slices"}],
}


def judge(seeds: Seeds) -> dict[str, Any]:
    """Return the means over patients, and the tests against the adapter."""
    rows = rows_of(seeds)
    return {
        "seeds": sorted(seeds),
        "patients": len({row.get("patient", row["case_id"]) for row in rows[REFERENCE]}),
        "means": means_of(rows, COLUMNS),
        "tests": tests_against(rows, COLUMNS, REFERENCE),
        "holds": {},  # nothing was stated before
    }


if __name__ == "__main__":
    summary = __doc__.splitlines()[0]
    run_study(FILE, judge, summary, ROOT / "speed/results/adapter_on_patients", seeds=(0,))
