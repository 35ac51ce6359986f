"""What a benchmark's folder holds: its plan, the tests that are done, its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.layouts import read_json
from errors import InputError
from evaluation.benchmark_tables import BenchmarkTable
from evaluation.measures import ScoreColumn
from studies.compared_runs import Tested, find_tested
from studies.side_by_side import SideBySide, side_by_side


@dataclass(frozen=True)
class BenchmarkResults:
    """The tests of a benchmark that are done.

    Args:
        folder: of the benchmark.
        plan: its ``plan.json``.
        tested: variant of the test (empty: the system's own) to its tables of scores.
        remarks: what is not there, a sentence each.
    """

    folder: Path
    plan: Mapping[str, Any]
    tested: Mapping[str, Sequence[Tested]]
    remarks: Sequence[str]

    def side_by_side(self, variant: str = "") -> SideBySide:
        """Return its systems side by side, the file's reference among them where it is done."""
        tested = self.tested[variant]
        allowed = self.plan.get("allow_different", [])
        reference = self.plan.get("reference")
        names = [item.name for item in tested]
        return side_by_side(
            tested,
            reference if reference in names else None,
            different_patients=bool(allowed) or _uneven(tested),
            different=allowed,
            remarks=[f"benchmark {self.plan.get('name', self.folder.name)}"],
        )

    def tables(self) -> list[BenchmarkTable]:
        """Return the tables that the benchmark's file asks for, of what is done."""
        made = []
        for wanted in self.plan.get("tables", []):
            for variant in ["", *wanted.get("variants", [])]:
                if variant in self.tested:
                    made += self._table(wanted, variant)
        return made

    def _table(self, wanted: Mapping[str, Any], variant: str) -> list[BenchmarkTable]:
        named = wanted.get("experiments") or [item.name for item in self.tested[variant]]
        compared = replace(
            self, tested={variant: [t for t in self.tested[variant] if t.name in named]}
        )
        if not compared.tested[variant]:
            return []
        beside = compared.side_by_side(variant)
        columns = _chosen(wanted, beside)
        title = " · ".join(filter(None, [str(wanted["title"]), variant]))
        published = bool(wanted.get("published"))
        return [beside.table(columns, title, published=published)] if columns else []


def read_results(folder: Path) -> BenchmarkResults:
    """Read the folder of a benchmark.

    Raises:
        InputError: when it is damaged, or no test of it is done.
    """
    plan = read_json(folder / "plan.json")
    tested: dict[str, list[Tested]] = {}
    open_tests = []
    for cell in plan.get("cells", []):
        file = Path(cell["per_case"])
        where = file if file.is_file() else folder.parent.parent / file  # another working directory
        if not where.is_file():
            known = (("fold", cell.get("fold")), ("seed", cell.get("seed")))
            details = [f"{name} {value}" for name, value in known if value not in ("", None)]
            details += [cell["variant"]] if cell.get("variant") else []
            open_tests.append(f"{cell['system']} ({', '.join(details)})")
            continue
        found = replace(find_tested(str(where), folder), name=cell["system"], named=True)
        tested.setdefault(cell.get("variant", ""), []).append(found)
    if not tested.get(""):
        raise InputError(
            f"{folder} has no tested system yet: run `lightning benchmark "
            f"{plan.get('file', 'FILE')}` to its end first."
        )
    shown = ", ".join(open_tests[:6]) + (" and others" if len(open_tests) > 6 else "")
    remarks = [f"Not tested, so left out: {shown}."] if open_tests else []
    return BenchmarkResults(folder, plan, tested, remarks)


def _uneven(tested: Sequence[Tested]) -> bool:
    """Whether systems lack tests that others have, such as a fold that failed."""
    cases: dict[str, set[str]] = {}
    for item in tested:
        cases.setdefault(item.name, set()).update(str(row["case_id"]) for row in item.rows)
    return len({frozenset(found) for found in cases.values()}) > 1


def _chosen(wanted: Mapping[str, Any], beside: SideBySide) -> list[ScoreColumn]:
    columns = beside.columns(wanted.get("metrics"))
    regions, scope = wanted.get("regions"), wanted.get("scope")
    return [
        column
        for column in columns
        if (not regions or column.region in regions)
        and (not scope or column.slices == (scope == "slices"))
    ]
