"""The ``lightning evaluate`` command: score masks of any tool against references."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command_parser import CommandParser, at_home
from datamodules.layouts.conventions import CONVENTIONS, REGIONS, LabelConvention
from datamodules.layouts.label_files import named_convention
from errors import InputError
from evaluation.metrics.empty_rules import EMPTY_RULES, rule_named
from files import end_with_parent
from outputs import Outputs
from studies.runs.input_record import InputRecord, check_writable
from studies.scores.mask_folders import Masks, Pair, find_masks, pair_up

if TYPE_CHECKING:
    from evaluation.metrics.calibration import Reliability
    from studies.scores.mask_scoring import Findings, Scored

NAMED = 10  # cases that a message names; the others are counted
TABLE, PARTIAL, UNSCORED = "per_case.csv", "per_case.partial.csv", "unscored.csv"
CALIBRATION = ("calibration.csv", "reliability.png")  # named by evaluation.figures.reliability
RECORD = "evaluation.json"  # record of the table's inputs
FILES = (TABLE, PARTIAL, UNSCORED, *CALIBRATION, RECORD)


def main(argv: Sequence[str]) -> int:
    """Score predictions against references; return 0 if every case was scored, else 1."""
    options = _parse(argv)
    references = find_masks(options.references, "references")
    predictions = find_masks(options.predictions, "predictions")
    chosen = [
        named_convention(words, f"--{option}") if words else None
        for words, option in (
            (options.prediction_labels, "prediction_labels"),
            (options.labels, "labels"),
        )
    ]
    pairs = pair_up(predictions.by_case, references.by_case, *chosen)
    options.regions = _regions(pairs, options.regions)
    missing, notes = _unmatched(list(predictions.by_case), list(references.by_case), options)
    notes += [*_left_out(references, "references"), *_left_out(predictions, "predictions")]
    check_writable(options.out, f"--out {options.out}")
    options.out.mkdir(parents=True, exist_ok=True)
    contents = _contents(chosen, options)
    contents.refuse_others("--out", "replace that", overwrite=options.overwrite)
    outputs = Outputs(options.out, "--out", overwrite=options.overwrite, can_overwrite=True)
    read = [mask.path for masks in (predictions, references) for mask in masks.by_case.values()]
    changed = outputs.check(FILES, read, unlisted=contents.unlisted())
    for kept in outputs.make_room(changed):
        print(f"Note: the earlier file is kept as {kept}.", flush=True)
    return evaluate_pairs(pairs, missing, notes, contents, outputs, options)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="lightning evaluate",
        description="Score label maps of any tool against references: Dice, HD95, surface Dice, "
        "sensitivity, precision, volume, lesion by lesion; calibration where probabilities lie "
        "beside them.",
        examples=["lightning evaluate --predictions DIR --references DIR"],
    )
    names = ", ".join(CONVENTIONS)
    parser.add_argument(
        "--predictions",
        type=at_home,
        required=True,
        help="folder of label maps: <case>.nii.gz, <case>_seg.nii.gz, or a layout of BraTS, MSD or "
        "nnU-Net; <case>_probabilities.nii.gz beside them (4-D) is used for calibration",
    )
    parser.add_argument(
        "--references", type=at_home, required=True, help="folder of references, named likewise"
    )
    parser.add_argument(
        "--labels",
        help=f"meaning of values: one of {names}, or a YAML file with necrosis, oedema, enhancing "
        "and, if need be, background, or with whole for masks of the whole tumour alone (default: "
        "by the names of the references)",
    )
    parser.add_argument(
        "--prediction_labels",
        help="the same for the predictions (default: by their names, else as the references)",
    )
    parser.add_argument(
        "--regions",
        help=f"regions to score (default: {','.join(REGIONS)}, or WT if labels mark no other)",
    )
    parser.add_argument(
        "--rule",
        default="brats",
        help=f"rule for empty regions: {', '.join(EMPTY_RULES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--allow_missing",
        nargs="?",
        const="true",
        default="false",
        choices=("true", "false"),
        help="score the other cases if references have no prediction",
    )
    parser.add_argument("--out", type=at_home, help="folder to write (default: the predictions')")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of another evaluation in that folder",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes; more than one pays from about fifty cases on (default: %(default)s)",
    )
    options = parser.parse_args(list(argv))
    options.out = options.out or options.predictions
    if options.regions is not None:
        wanted = [region for region in options.regions.replace(" ", "").split(",") if region]
        if not wanted or not set(wanted) <= set(REGIONS):
            raise InputError(f"--regions {options.regions} is unknown: give some of WT,TC,ET.")
        options.regions = [region for region in REGIONS if region in wanted]
    rule_named(options.rule)
    if options.workers < 1:
        raise InputError(f"--workers is {options.workers}: expected 1 or more processes.")
    return options


def _regions(pairs: Sequence[Pair], wanted: list[str] | None) -> list[str]:
    """Return the regions to score, by default all that the labels of both sides mark.

    Raises:
        InputError: if labels do not mark a wanted region.
    """
    meanings = {c for pair in pairs for c in (pair.prediction_labels, pair.reference_labels)}
    lacking = sorted(c.describe() for c in meanings if not set(wanted or REGIONS) <= set(c.regions))
    if wanted is None:
        return list(REGIONS[:1] if lacking else REGIONS)
    if lacking:
        raise InputError(
            f"--regions {','.join(wanted)} cannot be scored: labels are read as "
            f"{' or '.join(lacking)}, which marks WT alone; give --regions WT."
        )
    return wanted


def _unmatched(
    predictions: Sequence[str], references: Sequence[str], options: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Return the references without a prediction, and notes on cases without a counterpart.

    Raises:
        InputError: if references have no prediction and --allow_missing is not given.
    """
    notes = []
    missing = [case_id for case_id in references if case_id not in set(predictions)]
    if missing:
        what = f"{len(missing)} of {len(references)} references have no prediction"
        if options.allow_missing == "false":
            raise InputError(
                f"{what} in {options.predictions} ({_some(missing)}): add them, or give "
                "--allow_missing true to score the others."
            )
        notes.append(f"{what} and are not counted: {_some(missing)}")
    surplus = [case_id for case_id in predictions if case_id not in set(references)]
    if surplus:
        notes.append(f"{len(surplus)} predictions have no reference: {_some(surplus)}")
    return missing, notes


def _left_out(masks: Masks, option: str) -> list[str]:
    """Return a note for every kind of file that is no case's mask."""
    return [
        f"left out of --{option}, {what}: {len(paths)} ({_some([path.name for path in paths])})"
        for paths, what in (
            (masks.images, "images and no label maps"),
            (masks.others, "no case's label map"),
        )
        if paths
    ]


def _some(names: Sequence[str]) -> str:
    others = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + others


def _contents(chosen: Sequence[LabelConvention | None], options: argparse.Namespace) -> InputRecord:
    """Return the record of the table's inputs; files are identified by folder, not by content."""
    predicted, reference = (
        "by the names" if convention is None else convention.describe() for convention in chosen
    )
    inputs = {
        "predictions": str(options.predictions.resolve()),
        "references": str(options.references.resolve()),
        "rule": options.rule,
        "regions": ",".join(options.regions),
        "labels": reference,
        "prediction_labels": predicted,
    }
    return InputRecord(options.out / RECORD, TABLE, inputs)


def evaluate_pairs(
    pairs: Sequence[Pair],
    missing: Sequence[str],
    notes: list[str],
    contents: InputRecord,
    outputs: Outputs,
    options: argparse.Namespace,
) -> int:
    """Examine all pairs, score the good ones, write and print the scores.

    The table gets its name when all pairs are scored. Until then the table of an earlier evaluation
    stays whole, and an evaluation that is killed leaves a partial table.
    """
    from rich.console import Console

    from evaluation.figures.reliability import write_calibration
    from evaluation.tables.per_case import score_table, write_csv

    # In a file or a pipe every line stays whole; a terminal wraps long lines.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, highlight=False, markup=False)
    notes = [_label_meaning(pairs), *notes]
    for note in notes:
        console.print(note)
    problems, contradictions, remarks = _examine(pairs, options)
    notes += remarks
    for case_id, sentences in problems.items():
        for sentence in sentences:
            console.print(f"bad  {case_id}: {sentence}")
    if contradictions:  # labels of the other files would be misread too
        others = len(contradictions) - NAMED
        more = [f"and {others} files more"] if others > 0 else []
        raise InputError("\n".join([*contradictions[:NAMED], *more]))
    good = [pair for pair in pairs if pair.case_id not in problems]
    if not good:
        raise InputError(
            f"none of {len(pairs)} cases can be scored, for the reasons above: correct the files."
        )
    table = options.out / TABLE
    rows: list[dict[str, Any]] = []
    reliability: dict[str, dict[str, Reliability]] = {}
    unwritten: OSError | None = None
    for pair, scored in score_pairs(good, options):
        if isinstance(scored, str):
            problems[pair.case_id] = [scored]
            console.print(f"bad  {pair.case_id}: {scored}")
            continue
        rows.append(scored.row)
        if scored.reliability:
            reliability[pair.case_id] = scored.reliability
        try:
            outputs.write(PARTIAL, partial(write_csv, rows))
            unwritten = None
        except OSError as error:  # a full disk: the scores are still printed
            unwritten = error
    if not rows:
        raise InputError(
            f"none of {len(pairs)} cases could be scored, for the reasons above: correct the files."
        )
    if problems:
        notes.append(f"{len(problems)} of {len(pairs)} cases are bad and not counted")
    console.print(score_table(rows, f"{options.predictions}", "\n".join(notes)))
    if unwritten is not None:
        raise _full(table, unwritten)
    unscored = [{"case_id": case_id, "reason": "no prediction"} for case_id in missing]
    unscored += [
        {"case_id": case_id, "reason": " ".join(sentences)}
        for case_id, sentences in problems.items()
    ]
    try:
        # files beside the table must not be those of an earlier table
        for name in (*CALIBRATION, UNSCORED):
            outputs.remove(name)
        if unscored:
            outputs.write(UNSCORED, partial(write_csv, unscored))
        contents.write()  # before the table, so that an interrupted command can be repeated
        outputs.write(TABLE, partial(write_csv, rows))
        outputs.remove(PARTIAL)
    except OSError as error:
        raise _full(table, error) from error
    console.print(f"Per patient  {table}")
    if unscored:
        console.print(f"Not scored   {options.out / UNSCORED}")
    if reliability:
        try:
            lines = write_calibration(reliability, outputs, str(options.predictions))
        except OSError as error:
            raise _full(options.out / "calibration.csv", error) from error
        console.print("\n".join(lines))
    return 1 if problems else 0


def _full(file: Path, error: OSError) -> InputError:
    return InputError(
        f"{file} cannot be written ({error.strerror}): make room and repeat the command."
    )


def _label_meaning(pairs: Sequence[Pair]) -> str:
    """Return how the label values of both folders are interpreted, for the user to check."""

    def described(conventions: set[LabelConvention]) -> str:
        return " or ".join(sorted(convention.describe() for convention in conventions))

    predicted = described({pair.prediction_labels for pair in pairs})
    reference = described({pair.reference_labels for pair in pairs})
    if predicted == reference:
        return f"labels read as {reference}"
    return f"predictions read as {predicted}, references as {reference}"


def _examine(
    pairs: Sequence[Pair], options: argparse.Namespace
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Return the problems of each bad case, contradictions of values, remarks on predictions."""
    from concurrent.futures import ThreadPoolExecutor

    from studies.scores.mask_scoring import examine_pair

    with ThreadPoolExecutor(2) as pool:  # reading inflates outside Python's lock
        findings = list(pool.map(lambda pair: examine_pair(pair, options.regions), pairs))
    contradictions = [text for found in findings for text in found.contradictions]
    if len(options.regions) > 1 and not contradictions:
        stated = options.prediction_labels is not None
        contradictions = _cohort_contradictions(pairs, findings, stated)
    problems = {
        pair.case_id: found.problems
        for pair, found in zip(pairs, findings, strict=True)
        if found.problems
    }
    return problems, contradictions, list(dict.fromkeys(r for one in findings for r in one.remarks))


def _cohort_contradictions(
    pairs: Sequence[Pair], findings: Sequence["Findings"], stated: bool
) -> list[str]:
    """Return contradictions with the labels' meaning that show over a whole folder only."""
    from datamodules.layouts.label_values import misread

    sentences = []
    for side, option in (("reference", "labels"), ("prediction", "prediction_labels")):
        labels = {
            str(getattr(pair, side)): (
                getattr(pair, f"{side}_labels"),
                found.values.get(option, ()),
            )
            for pair, found in zip(pairs, findings, strict=True)
        }
        problems = misread(labels, f"--{option}", stated=stated and side == "prediction")
        if problems:
            first, sentence = next(iter(problems.items()))
            others = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            sentences.append(f"{first}{others}: {sentence}.")
    return sentences


def score_pairs(
    pairs: Sequence[Pair], options: argparse.Namespace
) -> Iterator[tuple[Pair, "Scored | str"]]:
    """Yield the scores of every pair, or the reason why it has none; show a progress bar."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from contextlib import ExitStack
    from multiprocessing import get_context

    from progress import Bar

    attempt = partial(_attempt, regions=options.regions, rule=options.rule)
    with ExitStack() as stack:
        run: Any = map
        if options.workers > 1:  # spawned: torch's threads do not survive a fork
            pool = ProcessPoolExecutor(options.workers, get_context("spawn"), end_with_parent)
            run = stack.enter_context(pool).map
        try:
            scored = zip(pairs, run(attempt, pairs), strict=True)
            with Bar(scored, desc="scoring", total=len(pairs), delay=1) as bar:
                yield from bar
        except BrokenProcessPool as error:
            raise InputError(
                f"a process was killed, most often for lack of memory: {options.out / PARTIAL} "
                "holds the scores so far; repeat the command with fewer --workers."
            ) from error


def _attempt(pair: Pair, regions: Sequence[str], rule: str) -> "Scored | str":
    """Score a pair; return the reason if a file changed since it was examined."""
    from studies.scores.mask_scoring import score_pair

    try:
        return score_pair(pair, regions, rule)
    except InputError as error:
        return str(error)
