"""The adapter and its rivals on held-out phantom exams, three seeds.

    python -m speed.evidence.adapter_on_phantoms --place FOLDER [--seeds 0 1 2] [--out FOLDER]

The systems of `experiments/benchmarks/sam_adapter.yaml` in FOLDER on 60 exams, 12 of them held out,
every other setting that of the benchmark. They are phantoms of another seed than those on which
settings were chosen, and than those of an earlier run, on which the statement held in two of three
seeds (docs/slices.md); the rivals' settings were chosen anew in between. Stopped, it goes on from
the last epoch. A seed that is done is a file in --out, and all that lie there are judged. What has
to hold was written down before the first run, and nothing was tuned on the held-out exams:

    in each seed the adapter's mean Dice on selected slices is above that of every other SAM system.

TransUNet and Swin-Unet stand beside it, however they come out.
"""

from typing import Any

import yaml

from speed.evidence.study import Seeds, mean_of, means_of, rows_of, run_study, tests_against
from studies.settings.command_line import ROOT

EXAMS = {"data.phantom_patients": 60, "data.phantom_seed": 2}
REFERENCE = "sam_adapter"
COLUMNS = ("slices/dice/WT", "slices/hd95/WT", "dice/WT", "hd95/WT")
DECIDES = "slices/dice/WT"
FILE = {
    **yaml.safe_load((ROOT / "experiments/benchmarks/sam_adapter.yaml").read_text()),
    "name": "adapter_on_phantoms",
    "options": EXAMS,
}


def judge(seeds: Seeds) -> dict[str, Any]:
    """Return the means over seeds and of each, and whether the statement holds."""
    rows = rows_of(seeds)
    by_seed = {
        seed: {name: mean_of(one["patients"], DECIDES) for name, one in systems.items()}
        for seed, systems in seeds.items()
    }
    above = {
        seed: all(
            means[REFERENCE] > mean
            for name, mean in means.items()
            if name.startswith("sam_") and name != REFERENCE
        )
        for seed, means in by_seed.items()
    }
    return {
        "seeds": sorted(seeds),
        "exams": len({row["case_id"] for row in rows[REFERENCE]}),
        "means": means_of(rows, COLUMNS),
        f"{DECIDES} of each seed": by_seed,
        "tests": tests_against(rows, COLUMNS, REFERENCE),
        "holds": {f"above every SAM system, seed {seed}": held for seed, held in above.items()},
    }


if __name__ == "__main__":
    summary = __doc__.splitlines()[0]
    run_study(FILE, judge, summary, ROOT / "speed/results/adapter_on_phantoms")
