"""``lightning benchmark FILE``: train and test every system of a file under one protocol."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from command_parser import CommandParser, at_home
from errors import InputError
from studies.benchmarks.benchmark_file import integers, read_benchmark
from studies.benchmarks.plan import BenchmarkPlan, check_forwarded, make_plan
from studies.benchmarks.scores import read_benchmark_scores, read_plan
from studies.benchmarks.tables import make_tables, show_tables, write_tables
from studies.commands.report import write_report
from studies.jobs.display import Display, title
from studies.jobs.engine import Engine, study_folder
from studies.jobs.placement import add_options, check_options, concurrency, make_workers
from studies.settings.command_line import CommandLine, add_dry_run
from studies.training.fit_parser import make_planner
from studies.training.lightning_cli import quiet


def main(words: Sequence[str]) -> int:
    """Plan a benchmark, run its unfinished jobs, write its tables; return 1 if a job failed."""
    options, rest = _parse(words)
    check_options(options)
    quiet()
    benchmark = read_benchmark(options.file)
    if options.folds is not None:
        if options.folds < 2:
            raise InputError(f"--folds is {options.folds}: expected 2 or more.")
        benchmark.n_folds, benchmark.folds = options.folds, list(range(options.folds))
    if options.seeds is not None:
        benchmark.seeds = integers(options.seeds, "--seeds", largest=2**32 - 1)
    line = CommandLine.parse(rest)
    check_forwarded(line)
    folder = options.out or Path("benchmarks") / benchmark.name
    plan = make_plan(benchmark, make_planner(options.runs_dir), line)
    if options.dry_run:
        from studies.jobs.cost_table import print_estimate

        print_estimate(plan.graph.ordered(), *concurrency(options, plan.graph.ordered()))
        return 0
    with study_folder(folder, "benchmark"), make_workers(options, plan.graph.ordered()) as workers:
        set_aside_other(folder, plan)
        plan.write(folder, ["lightning", "benchmark", *words])
        with Display() as display:
            engine = Engine(folder, plan.graph.ordered(), workers, display)
            whole = engine.run()
        try:
            _conclude(folder, plan)
        finally:  # even if a table or the page fails
            status = report(engine, whole)
    return status


def _conclude(folder: Path, plan: BenchmarkPlan) -> None:
    """Write scores, tables and page of the finished tests, and print where they are."""
    results = plan.write_results(folder)
    scores = read_benchmark_scores(folder)
    tables = make_tables(scores)
    files = write_tables(folder, scores, tables)
    show_tables(tables)
    print(f"Scores of every patient: {results}")
    if files:
        print(f"Tables (Markdown, LaTeX, CSV) and pictures: {files[0].parent}")
    if any(cell.test.finished() for cell in plan.cells):
        print(f"Page to look at, offline: {write_report([folder], settled=True)}")


def set_aside_other(folder: Path, plan: BenchmarkPlan) -> None:
    """Move a folder's results of another benchmark, such as one of other data, to a subfolder.

    A benchmark that shares a test with the earlier one is the same, even if its file has changed.

    Args:
        folder: folder of the benchmark.
        plan: the benchmark that will use it.
    """
    file = folder / "plan.json"
    if not file.is_file():
        return
    there = {cell["per_case"] for cell in read_plan(folder)["cells"]}
    if not there or there & {str(cell.test.table) for cell in plan.cells}:
        return
    kept = folder / "earlier" / time.strftime("%Y%m%d-%H%M%S", time.gmtime(file.stat().st_mtime))
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("plan.json", "state.json", "results.csv", "tables", "report.html"):
        if (folder / name).exists():
            (folder / name).replace(kept / name)
    print(f"{folder} held a benchmark of other runs: its tables and its page are now in {kept}.")


def report(engine: Engine, whole: bool) -> int:
    """Print the jobs that failed; return the exit status."""
    for job, message in engine.failures():
        log = engine.state[job.id].get("log")
        print(f"Failed: {title(job)}: {message}" + (f", its output is in {log}" if log else ""))
    if not whole:
        print("Correct the cause and repeat the command: finished jobs are not repeated.")
    return 0 if whole else 1


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = CommandParser(
        prog="lightning benchmark",
        description="Train and test every system of a benchmark file; finished jobs are skipped.",
        epilog="--config OVERLAY, --data.*, --trainer.* and --model.size go to every experiment.",
        examples=[
            "lightning benchmark experiments/benchmarks/dual_fusion.yaml --dry-run",
            "lightning benchmark experiments/benchmarks/dual_fusion.yaml",
        ],
    )
    parser.add_argument("file", help="such as experiments/benchmarks/dual_fusion.yaml")
    parser.add_argument(
        "--out", type=at_home, help="folder of the benchmark (default: benchmarks/NAME)"
    )
    parser.add_argument("--folds", type=int, help="folds of cross-validation instead of the file's")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds instead of the file's")
    add_dry_run(
        parser,
        "print the jobs and their estimated cost, and stop; prepares the data, which may "
        "take long for raw exams",
    )
    add_options(parser)
    return parser.parse_known_args(list(words))
