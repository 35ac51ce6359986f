"""A shipped benchmark at the embedded scale, from nothing: time, peak memory, scores.

    python -m speed.commands.benchmark experiments/benchmarks/dual_fusion.yaml
        [--out speed/results/benchmark_dual_fusion.json] [--keep FOLDER] [words for the command ...]

In an empty folder with an empty cache: phantoms are generated, everything is trained and tested.
With --keep the folder stays, to look at its report.
The scores are means over the few held-out phantoms; the loss of every training is listed by epoch.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evaluation.tables.per_case import mean_scores, read_csv
from lightning_modules.callbacks.metrics_file import read_metrics
from speed.memory import peak_memory_until_end
from speed.record import write_record
from studies.settings.command_line import ROOT

LIMIT_MINUTES = 40.0  # each study's benchmark, one fold and one seed, on two cores


def system_figures(folder: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Return the cost and the scores of one system of the plan."""
    run, rows = folder / cell["folder"], read_csv(folder / cell["per_case"])
    manifest = json.loads((run / "manifest.json").read_text())
    epochs = read_metrics(run / "metrics.csv")
    return {
        "system": cell["system"],
        "variant": cell["variant"],
        "parameters": manifest["parameters"],
        "training_minutes_without_stages": round(float(manifest["wall_seconds"]) / 60, 2),
        "loss_by_epoch": [round(row["train/loss"], 4) for row in epochs],
        "held_out_phantoms": len(rows),
        "test": {name: round(value, 4) for name, value in mean_scores(rows).items()},
    }


def main() -> None:
    """Run the benchmark and write its cost and its scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--keep", type=Path, default=None)
    arguments, words = parser.parse_known_args()
    with contextlib.ExitStack() as places:
        if arguments.keep is None:
            folder = Path(places.enter_context(tempfile.TemporaryDirectory()))
        else:
            arguments.keep.mkdir(parents=True)
            folder = arguments.keep.resolve()
        environment = {**os.environ, "GLIOFUSE_CACHE": f"{folder}/cache", "WANDB_MODE": "offline"}
        command = [sys.executable, str(ROOT / "cli.py"), "benchmark", arguments.file, *words]
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=environment)
        peak = peak_memory_until_end(process)
        status = process.wait()
        minutes = (time.monotonic() - began) / 60
        plan_file = next(folder.glob("benchmarks/*/plan.json"), None)
        if plan_file is None:
            sys.exit(f"the benchmark stopped with status {status} before it had a plan")
        plan = json.loads(plan_file.read_text())
        jobs = json.loads((plan_file.parent / "state.json").read_text())["jobs"]
        done = [cell for cell in plan["cells"] if (folder / cell["per_case"]).is_file()]
        result = {
            "command": ["lightning", *command[2:]],
            "status": status,
            "minutes": round(minutes, 2),
            "limit_minutes": LIMIT_MINUTES,
            "peak_memory_gb": round(peak, 2),
            "load_average": round(os.getloadavg()[0], 1),
            "jobs_seconds": {name: entry.get("seconds") for name, entry in jobs.items()},
            "systems": [system_figures(folder, cell) for cell in done],
        }
        if arguments.out is not None:
            write_record(arguments.out, result)
            for table in sorted(plan_file.parent.glob("tables/table-?.md")):
                name = f"{arguments.out.stem}_{table.name}"
                arguments.out.with_name(name).write_text(table.read_text())
    print(f"{minutes:.1f} min (limit {LIMIT_MINUTES:.0f}), {peak:.1f} GB, status {status}")
    sys.exit(status)


if __name__ == "__main__":
    main()
