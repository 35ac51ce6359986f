"""The scores of a benchmark that are there so far, read by its ``plan.json``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errors import InputError
from evaluation.figures.patient_number import SEED
from evaluation.statistics.comparison import Row
from files import read_object
from studies.runs.run import run_at
from studies.scores.tested import Tested, read_scores, table_of_run, with_patients

CELL = {"system", "fold", "seed", "variant", "folder", "per_case"}
Mark = Callable[[Mapping[str, Any]], Row]  # an entry of ``plan.json`` to columns of its rows


def _by_run(cell: Mapping[str, Any]) -> Row:
    fold = "" if cell["fold"] in ("", None) else f"fold {cell['fold']} "
    return {"trained": f"{fold}seed {cell['seed']}"}


def by_seed(cell: Mapping[str, Any]) -> Row:
    """Return the column of the seed of an entry of ``plan.json``."""
    return {SEED: cell["seed"]}


@dataclass(frozen=True)
class BenchmarkScores:
    """The scores of a benchmark so far.

    Args:
        plan: the content of ``plan.json``.
        tested: finished tables of scores, with the patients of their cases.
        cells: their entries in ``plan.json``, in the same order.
        damaged: a sentence for every damaged table, which is left out.
    """

    plan: Mapping[str, Any]
    tested: Sequence[Tested]
    cells: Sequence[Mapping[str, Any]]
    damaged: Sequence[str] = ()

    def rows(self, variant: str = "", marked: Mark | None = None) -> dict[str, list[Row]]:
        """Return the rows of every system tested this way, over all folds and seeds.

        Args:
            variant: name of the further test; empty: as trained.
            marked: returns further columns of a run's rows; None: none.
        """
        found: dict[str, list[Row]] = {}
        for cell, item in zip(self.cells, self.tested, strict=True):
            if cell["variant"] == variant:
                columns = marked(cell) if marked else {}
                found.setdefault(cell["system"], []).extend({**row, **columns} for row in item.rows)
        return found

    def rows_with_runs(self, variant: str = "") -> dict[str, list[Row]]:
        """Return the same rows with a column ``trained``, the fold and seed of the run."""
        return self.rows(variant, _by_run)

    def first(self, system: str) -> Tested:
        """Return the first tested run of a system."""
        return next(
            item
            for cell, item in zip(self.cells, self.tested, strict=True)
            if cell["system"] == system
        )


def read_plan(folder: Path) -> dict[str, Any]:
    """Return the content of a benchmark's ``plan.json``.

    Raises:
        InputError: when it is damaged, or of a version that this one cannot read.
    """
    file = folder / "plan.json"
    plan = read_object(file)
    cells = plan.get("cells")
    whole = isinstance(cells, list) and all(
        isinstance(cell, dict) and cell.keys() >= CELL for cell in cells
    )
    if not whole or not {"tables", "reference"} <= plan.keys():
        raise InputError(
            f"{file} is no plan of a benchmark, or one of another version: move it away and repeat "
            "`lightning benchmark FILE`, which does not repeat finished jobs."
        )
    return plan


def read_benchmark_scores(folder: Path) -> BenchmarkScores:
    """Read the plan of a benchmark and every whole table of scores that is there.

    Args:
        folder: folder of the benchmark, with ``plan.json``.
    """
    plan = read_plan(folder)
    cells, tested, damaged = [], [], []
    for cell in plan["cells"]:
        table = Path(cell["per_case"])
        if not table.is_file():
            continue
        try:
            rows = read_scores(table)
        except InputError as error:
            damaged.append(str(error))
            continue
        cells.append(cell)
        item = table_of_run(run_at(Path(cell["folder"])), table, rows)
        tested.append(replace(item, name=cell["system"], named=True))
    return BenchmarkScores(plan, with_patients(tested), cells, damaged)
