"""The time that ``--dry-run`` estimates for each job of a shipped benchmark, and its real time.

    python -m speed.commands.estimate dual_fusion [sam_adapter ...] [--out FILE.json]

The real times are in ``speed/results/benchmark_<name>.json``, which `speed.commands.benchmark`
writes: run both on the same machine. `studies.jobs.estimate` explains how its constants follow from
them.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from speed.timing import write_rows
from studies.benchmarks.benchmark_file import read_benchmark
from studies.benchmarks.plan import make_plan
from studies.jobs.estimate import Costs, work_of
from studies.jobs.workers import jobs_at_once
from studies.runs.environment import cores
from studies.settings.command_line import ROOT, CommandLine
from studies.training.fit_parser import make_planner


def compare(name: str) -> list[dict[str, Any]]:
    """Return a row for each measured job: its estimated and its measured seconds."""
    took = json.loads((ROOT / f"speed/results/benchmark_{name}.json").read_text())["jobs_seconds"]
    measured = {(job.rpartition("-")[0], job.endswith(".test")): s for job, s in took.items()}
    benchmark = read_benchmark(f"experiments/benchmarks/{name}.yaml")
    plan = make_plan(benchmark, make_planner(Path("runs")), CommandLine())
    at_once = jobs_at_once(cores(), 0, multi_device=False)
    costs, rows = Costs(max(1, cores() // at_once)), []
    for job in plan.graph.ordered():
        cost = costs.of(job)
        seconds = measured.get((job.run.experiment, job.kind == "test"))
        if isinstance(cost, str) or not seconds:
            continue
        work = work_of(job, trains=cost["step"] > 0)
        rows.append(
            {
                "benchmark": name,
                "job": f"{job.kind} {job.run.experiment}",
                "estimated": round(work.seconds(cost), 1),
                "measured": seconds,
                "work": vars(work),
                "seconds": {part: round(cost[part], 4) for part in ("step", "batch", "forward")},
            }
        )
        print(f"{rows[-1]['job']:<28} {rows[-1]['estimated']:7.1f} s, took {seconds:7.1f} s")
    return rows


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="of shipped benchmarks")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    rows = [row for name in options.names for row in compare(name)]
    ratios = [row["estimated"] / row["measured"] for row in rows]
    print(f"estimated over measured: median {statistics.median(ratios):.2f}")
    write_rows(options.out, "seconds of jobs, estimated and measured", cores(), rows)


if __name__ == "__main__":
    main()
