"""Put tested runs side by side as systems over the same patients, and make their tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errors import InputError
from evaluation.statistics.columns import ScoreColumn, score_columns
from evaluation.statistics.comparison import Row, check_patients, common_patients, patients_of
from evaluation.tables.intervals import statistics_tables
from evaluation.tables.provenance import Provenance
from evaluation.tables.systems import BenchmarkTable, benchmark_table
from studies.scores.provenance import is_as_published, provenance_of
from studies.scores.tested import Tested, check_comparable, group_systems, with_patients


@dataclass(frozen=True)
class SideBySide:
    """Systems with comparable scores of the same patients.

    Args:
        systems: system to its runs.
        rows: system to its rows of ``per_case.csv``.
        reference: the system that the others are compared with.
        provenance: data, split, seeds and versions behind the scores.
    """

    systems: dict[str, list[Tested]]
    rows: dict[str, list[Row]]
    reference: str
    provenance: Provenance

    @property
    def counted_patients(self) -> str:
        """Number of patients in words, such as ``8 patients``."""
        count = len(patients_of(self.rows[self.reference]))
        return f"{count} patient{'' if count == 1 else 's'}"

    def columns(self, metrics: Sequence[str] | None = None) -> list[ScoreColumn]:
        """Return the score columns that all systems have.

        Args:
            metrics: metrics to return; None takes Dice and HD95.

        Raises:
            InputError: when the systems share none.
        """
        columns = score_columns(self.shared_names(), metrics)
        if not columns:
            raise InputError(
                f"{', '.join(self.rows)} have no Dice and no HD95 of one region in common: name a "
                "metric that all hold with --metrics."
            )
        return columns

    def shared_names(self) -> list[str]:
        """Return the names of the columns that every system's rows have."""
        named = [dict.fromkeys(key for row in found for key in row) for found in self.rows.values()]
        return [key for key in named[0] if all(key in names for names in named)]

    def table(
        self, columns: Sequence[ScoreColumn], title: str, *, with_parameters: bool = True
    ) -> BenchmarkTable:
        """Return a table of the systems' means.

        Args:
            columns: the scores to show.
            title: title of the table.
            with_parameters: whether to show parameter counts and the papers' own scores too.
        """
        first = {name: runs[0].manifest for name, runs in self.systems.items()}
        experiments = {
            name: str(one)
            for name, one in _entries(first, "experiment").items()
            if all(is_as_published(run.manifest) for run in self.systems[name])
        }
        return benchmark_table(
            self.rows,
            columns,
            title=title,
            parameters=(_entries(first, "parameters") or None) if with_parameters else None,
            experiments=experiments if with_parameters else None,
            provenance=self.provenance,
        )

    def statistics(self, columns: Sequence[ScoreColumn]) -> list[BenchmarkTable]:
        """Return medians, intervals and tests against the reference, one table for each measure."""
        return statistics_tables(self.rows, columns, self.reference, provenance=self.provenance)


def side_by_side(
    tested: Sequence[Tested],
    reference: str | None = None,
    *,
    different_patients: bool = False,
    different: Collection[str] = (),
    remarks: Sequence[str] = (),
) -> SideBySide:
    """Group tested runs into systems and reduce them to comparable rows.

    Args:
        tested: runs and tables of scores.
        reference: name of a system; None takes the first.
        different_patients: whether to compare the shared patients if not all are shared, instead
            of refusing.
        different: settings that are meant to differ, such as ``data.split_by``.
        remarks: sentences for the provenance.

    Raises:
        InputError: when they cannot be compared, or the reference is not among them.
    """
    tested = with_patients(tested)
    systems = group_systems(tested)
    chosen = reference or next(iter(systems))
    if chosen not in systems:
        raise InputError(
            f"--reference {chosen!r} is not among the compared systems: expected one of "
            f"{', '.join(systems)}."
        )
    check_comparable(tested, different_patients=different_patients, different=different)
    rows = {name: _rows_of(runs) for name, runs in systems.items()}
    notes = [*remarks, *unequal_runs({name: len(runs) for name, runs in systems.items()})]
    if different_patients:
        all_patients = set().union(*(patients_of(found) for found in rows.values()))
        rows = common_patients(rows)
        left_out = len(all_patients) - len(patients_of(rows[chosen]))
        if left_out:
            notes.append(f"only the patients that all were tested on; {left_out} left out")
    check_patients(rows)
    notes += [*_unequal_cases(rows), *_missing_scores(rows)]
    return SideBySide(systems, rows, chosen, provenance_of(tested, notes))


def _rows_of(runs: Sequence[Tested]) -> list[Row]:
    """Return the rows of a system; of several runs, each row with the label of its run."""
    if len(runs) == 1:
        return list(runs[0].rows)
    return [{**row, "run": _run_label(run, row)} for run in runs for row in run.rows]


def _run_label(run: Tested, row: Row) -> str:
    identity = str(run.manifest.get("id", run.file.stem))[:6]
    seed = [f"seed {run.manifest['seed']}"] if "seed" in run.manifest else []
    own = [f"{row['run']}"] if "run" in row else []
    return ", ".join([identity, *seed, *own])


def _unequal_cases(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return a note if systems were scored on different examinations of the same patients."""
    cases = {name: {str(row["case_id"]) for row in found} for name, found in rows.items()}
    everywhere = set.intersection(*cases.values())
    extra = {name: len(own - everywhere) for name, own in cases.items() if own - everywhere}
    if not extra:
        return []
    named = ", ".join(f"{name} {count}" for name, count in extra.items())
    return [f"not the same examinations of these patients; cases that not all have: {named}"]


def _missing_scores(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Name the columns of Dice and HD95 that are not shown because a system lacks them."""
    named = {name: {key for row in found for key in row} for name, found in rows.items()}
    found = []
    for column in score_columns(dict.fromkeys(key for keys in named.values() for key in keys)):
        lacking = [name for name, keys in named.items() if column.key not in keys]
        if lacking:
            found.append(f"left out, {', '.join(lacking)} without it: {column.key}")
    return sorted(found)


def unequal_runs(counts: Mapping[str, int]) -> list[str]:
    """Return a note on the number of runs of each system, if any has several."""
    if max(counts.values()) == 1:
        return []
    named = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"runs averaged within a patient: {named}"]


def _entries(manifests: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    return {name: manifest[key] for name, manifest in manifests.items() if key in manifest}
