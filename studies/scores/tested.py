"""Find tested runs by the names that a user types, read their scores and check them."""

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from datamodules.layouts.brats import patient_of
from errors import InputError
from evaluation.statistics.columns import ScoreColumn
from evaluation.tables.per_case import read_csv
from files import read_object
from studies.runs.run import Run, run_at, run_named, same_cohort
from studies.scores.comparable import system_name

TEXT = ("case_id", "doubts", "empty_rule", "patient", "layout", "system", "run")
# Settings that decide which slices are scored and on which grid, with their entry in the identity.
SLICE_SETTINGS = {
    "selection": "selection",
    "slices_per_patient": "slices_per_patient",
    "split_by": "split_by",
    "spacing": "spacing",
    "slice_size": "patch_size",
}
# Prefixes of the folders that `lightning test` makes inside a run.
EXTERNAL, OTHER_PATIENTS, OTHER_SETTINGS = "external-", ("patients-", "partial"), "data-"
VARIANTS = "variants"  # folder of a benchmark's further tests
TESTED = "tested.json"  # the data and post-processing of a test, beside its scores
DEEPEST = 6  # folders between a run and a table of one of its tests, at most


@dataclass(frozen=True)
class Tested:
    """A tested run, or a table of scores without a run.

    Args:
        name: the system's name in tables.
        file: its ``per_case.csv``.
        rows: rows of that file.
        named: whether the user chose the name.
        manifest: manifest of the run; empty for a table without a run.
        split: split of the run; empty for a table without a run.
        cohort: fingerprint of the tested data; empty: unknown.
        test: name of a further test, such as ``without-t1``; empty: the run's own test.
        postprocessing: rules that the label maps went through before they were scored; ``none``.
    """

    name: str
    file: Path
    rows: list[dict[str, Any]]
    named: bool = False
    manifest: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, Any] = field(default_factory=dict)
    cohort: str = ""
    test: str = ""
    postprocessing: str = "none"

    @property
    def empty_rule(self) -> str:
        """Name of the rule for empty regions; ``brats`` for runs that did not record it yet."""
        named = sorted({str(row["empty_rule"]) for row in self.rows if "empty_rule" in row})
        return " and ".join(named) or ("brats" if self.manifest else "")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that have to be equal for scores to be comparable, by their names for users."""
        if not self.manifest:
            return {}
        external = self.cohort.startswith(EXTERNAL)
        found = {
            "protocol": "external" if external else self.split.get("protocol", "default"),
            "2D or 3D": "2D" if self.manifest.get("per_slice") else "3D",
        }
        if self.manifest.get("per_slice"):
            data = self.manifest.get("determinants", {}).get("data", {})
            found |= {f"data.{name}": data.get(key) for name, key in SLICE_SETTINGS.items()}
        settings = [part for part in self.test.split(", ") if part.startswith(OTHER_SETTINGS)]
        found["data settings of the test"] = " ".join(settings) or "those it was trained with"
        return found


def find_tested(word: str, runs_dir: Path) -> Tested:
    """Return the tested run that a word of the command line names.

    Args:
        word: a run folder, an experiment (its newest finished run), ``experiment/id``, a table of
            scores, or any of them after ``name=``.
        runs_dir: folder of all runs.

    Raises:
        InputError: when there is no such run, or it has not been tested.
    """
    if Path(word).exists():  # a path may contain an equals sign
        return _find(word, runs_dir)
    name, equals, target = word.partition("=")
    if equals and not (name and target):
        raise InputError(
            f"{word!r} names no run: expected NAME=RUN, for instance a=runs/fusion/ID."
        )
    found = _find(target if equals else word, runs_dir)
    return replace(found, name=name, named=True) if equals else found


def _find(target: str, runs_dir: Path) -> Tested:
    path = Path(target).expanduser()
    if path.is_file() and path.suffix != ".yaml":
        return _of_table(path)
    for folder in (path, runs_dir / target):
        if (folder / "per_case.csv").is_file() and not (folder / "manifest.json").is_file():
            return _of_table(folder / "per_case.csv")
    found = run_named(target, runs_dir)
    if found is None:
        known = sorted({file.parents[1].name for file in runs_dir.glob("*/*/manifest.json")})
        raise InputError(
            f"There is no finished run {target!r}: expected a run folder, an experiment with a "
            f"finished run below {runs_dir} ({', '.join(known) or 'none is there'}), "
            "experiment/id, or a per_case.csv file."
        )
    return _of_run(found)


def _of_run(run: Run) -> Tested:
    manifest = run.manifest()
    if manifest.get("status") != "finished":
        raise InputError(
            f"{run.folder} is not finished: go on with its training (--resume) and test it first."
        )
    file = run.folder / "per_case.csv"
    if not file.is_file():
        raise InputError(
            f"{run.folder} was not tested yet: run `lightning test --ckpt_path "
            f"{run.best_checkpoint}` first."
        )
    return _of_table(file)


def _of_table(file: Path) -> Tested:
    """Read a table of scores, and the run whose folder it lies in, if any."""
    rows, home = read_scores(file), file.resolve().parent
    if file.name != "per_case.csv":
        return Tested(file.stem, file, rows)
    for folder in [home, *home.parents][:DEEPEST]:
        if (folder / "manifest.json").is_file():
            return table_of_run(run_at(folder), file, rows)
    return Tested(home.name, file, rows)


def table_of_run(run: Run, file: Path, rows: list[dict[str, Any]]) -> Tested:
    """Return a table of scores as a test of a run's checkpoint, in or outside the run's folder.

    Args:
        run: the run.
        file: the table.
        rows: rows of the table, from `read_scores`.

    Raises:
        InputError: when the run's manifest or split is damaged.
    """
    manifest, home, whole = run.manifest(), file.resolve().parent, run.folder.resolve()
    parts = home.relative_to(whole).parts if home.is_relative_to(whole) else ()
    external = next((part for part in parts if part.startswith(EXTERNAL)), "")
    others = [part for part in parts if part.startswith(OTHER_PATIENTS)]
    beside = file.with_name(TESTED)
    test = read_object(beside) if beside.is_file() else {}  # earlier versions wrote none
    if test.get("protocol") == "external" and not external:
        external = f"{EXTERNAL}{str(test.get('cohort', ''))[:8]}"
    return Tested(
        name=system_name({"experiment": run.experiment, **manifest}),
        file=file,
        rows=rows,
        manifest=manifest,
        split=_split(run),
        cohort=" ".join([external or str(manifest.get("cohort", "")), *others]).strip(),
        test=", ".join(part for part in parts if part not in (external, VARIANTS)),
        postprocessing=str(test.get("postprocessing", manifest.get("postprocessing", "none"))),
    )


def read_scores(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of scores, checked.

    Raises:
        InputError: when it is damaged, holds no patient, no score, a patient twice or a score
            that is no number.
    """
    try:
        rows = read_csv(file, text=TEXT)
    except (OSError, ValueError, TypeError, csv.Error) as error:  # TypeError: too many fields
        raise InputError(
            f"{file} is damaged and cannot be read as a table of scores ({error}): test or "
            "evaluate again."
        ) from error
    if not rows or any("case_id" not in row for row in rows):
        raise InputError(
            f"{file} is no table of scores: expected a line a patient with the column case_id, as "
            "`lightning test` and `lightning evaluate` write it."
        )
    if len({str(row.get("system", "")) for row in rows}) > 1:
        raise InputError(
            f"{file} holds several systems, as a benchmark's results.csv does: give the folder of "
            "the benchmark to `lightning report`, or the folders of its runs."
        )
    once: set[tuple[str, ...]] = set()
    for row in rows:
        line = (str(row["case_id"]), str(row.get("seed", "")), str(row.get("run", "")))
        if line in once:
            raise InputError(
                f"{file} has the patient {row['case_id']} twice: expected one line a patient, or "
                "columns seed or run that tell the lines apart."
            )
        once.add(line)
        for key, value in row.items():
            column = ScoreColumn.parse(key)
            if column is not None:
                _check_score(value, column, f"{file} has {value!r} in {key} of {row['case_id']}")
    if not any(ScoreColumn.parse(key) for row in rows for key in row):
        raise InputError(
            f"{file} has no column with scores, such as dice/WT or hd95/ET: expected the "
            "per_case.csv of `lightning test` or `lightning evaluate`."
        )
    return rows


def _check_score(value: Any, column: ScoreColumn, what: str) -> None:
    """Refuse a value that is no number or out of range, such as a share in per cent."""
    measure = column.measure
    if not isinstance(value, float):
        raise InputError(f"{what}: expected a number; test or evaluate again.")
    if not measure.unit and not (math.isnan(value) or 0 <= value <= 1):
        raise InputError(f"{what}: expected a share between 0 and 1, not per cent.")
    if measure.unit and not measure.magnitude and value < 0:
        raise InputError(f"{what}: expected no negative {measure.unit}; test or evaluate again.")


def with_patients(tested: Sequence[Tested]) -> list[Tested]:
    """Add each case's patient to its row: as in the split of any run, else by the case's name."""
    known: dict[str, str] = {}
    for item in tested:
        known |= item.split.get("patients", {})

    def patient(case_id: str) -> str:
        return known.get(case_id) or patient_of(case_id)

    return [
        replace(item, rows=[{"patient": patient(str(row["case_id"])), **row} for row in item.rows])
        for item in tested
    ]


def check_comparable(
    tested: Sequence[Tested], *, different_patients: bool, different: Collection[str] = ()
) -> None:
    """Refuse tables whose scores are not comparable.

    Args:
        tested: runs and tables.
        different_patients: whether only the shared patients will be compared.
        different: settings that are meant to differ, such as ``data.split_by``.

    Raises:
        InputError: when two are not comparable, naming them and the difference.
    """
    for first, other in combinations(tested, 2):
        pair = f"{first.name} and {other.name}"
        for key in (
            key for key in first.settings if key in other.settings and key not in different
        ):
            ours, theirs = first.settings[key], other.settings[key]
            if ours != theirs:
                raise InputError(
                    f"{pair} cannot be compared: {key} is {ours} in {first.file.parent} and "
                    f"{theirs} in {other.file.parent}; train and test them alike."
                )
        if first.empty_rule and other.empty_rule and first.empty_rule != other.empty_rule:
            raise InputError(
                f"{pair} score empty regions by different rules ({first.empty_rule} and "
                f"{other.empty_rule}): test or evaluate one of them again with the other's rule."
            )
        if not first.cohort or not other.cohort or _same_data(first, other):
            continue
        if not different_patients:
            raise InputError(
                f"{pair} were tested on different data (fingerprints {first.cohort[:12]} and "
                f"{other.cohort[:12]}): test both on the same cohort, or compare the patients "
                "they share with --allow_different_patients true."
            )
        ours, theirs = (item.split.get("hashes", {}) for item in (first, other))
        changed = sorted(
            {str(row["case_id"]) for row in first.rows}
            & {str(row["case_id"]) for row in other.rows}
            & {case for case in ours.keys() & theirs.keys() if ours[case] != theirs[case]}
        )
        if changed:
            raise InputError(
                f"{pair} were tested on other images under the same names "
                f"({', '.join(changed[:5])}): a paired comparison needs the same patients."
            )


def _same_data(first: Tested, other: Tested) -> bool:
    """Whether two runs were tested on the same data; runs of older versions are recognised."""
    if first.cohort == other.cohort:
        return True
    own = all(item.cohort == item.manifest.get("cohort") for item in (first, other))
    return own and same_cohort(first.manifest, other.manifest)


def group_systems(tested: Sequence[Tested]) -> dict[str, list[Tested]]:
    """Group runs into systems by name; a name that the user gave several runs is one system.

    Overlays that all runs share are left out of their names. Names that still coincide without
    being chosen by the user are completed with the runs' ids, or else their folders.

    Raises:
        InputError: when a table is named twice.
    """
    files = [item.file.resolve() for item in tested]
    for item, file in zip(tested, files, strict=True):
        if files.count(file) > 1:
            raise InputError(f"{item.file} is named twice: name every run once.")
    manifests = [dict(item.manifest) for item in tested if item.manifest]
    shared = set.intersection(*(set(m.get("overlays", [])) for m in manifests or [{}]))
    names = [
        item.name
        if item.named or not item.manifest
        else ", ".join(
            filter(
                None, [system_name({"experiment": item.name, **item.manifest}, shared), item.test]
            )
        )
        for item in tested
    ]
    ids = [str(item.manifest.get("id", "")) for item in tested]
    systems: dict[str, list[Tested]] = {}
    for item, name, run_id in zip(tested, names, ids, strict=True):
        own = name
        if not item.named and names.count(name) > 1:
            alike = list(zip(names, ids, strict=True)).count((name, run_id))
            own = (
                f"{name} {run_id[:6]}" if run_id and alike == 1 else f"{name} ({item.file.parent})"
            )
        systems.setdefault(own, []).append(item)
    return systems


def _split(run: Run) -> dict[str, Any]:
    file = run.folder / "split.json"
    return read_object(file) if file.is_file() else {}
