"""The `lightning check` command: a cohort in one table, compared with a checkpoint's if given."""

import sys
from collections.abc import Sequence
from pathlib import Path

from command_parser import CommandParser
from datamodules.check import examine_cohort
from datamodules.check_table import check_table, plain
from studies.settings.command_line import find_file


def main(argv: Sequence[str]) -> int:
    """Examine every case of a cohort and print one table; return 1 if any case is bad."""
    from rich.console import Console

    parser = CommandParser(
        prog="lightning check",
        description="Check every case of a cohort before training on it. With a checkpoint, also "
        "name the patients who look unlike those that it was trained on.",
        examples=[
            "lightning check --data.root /data/BraTS2018",
            "lightning check --data.root /data/new_patients --ckpt_path weights/fusion.ckpt",
        ],
    )
    parser.add_argument("--data.root", dest="root", required=True, help="folder of the cohort")
    parser.add_argument("--data.layout", dest="layout", help="layout name or YAML file")
    parser.add_argument(
        "--data.patient",
        dest="patient",
        metavar="REGEX",
        help="one group that finds the patient in a case's path (default: by the names)",
    )
    parser.add_argument(
        "--data.labels", dest="labels", help="what label values mean: a layout's name or YAML file"
    )
    parser.add_argument(
        "--ckpt_path",
        dest="checkpoint",
        type=find_file,
        metavar="FILE",
        help="checkpoint whose training patients the cohort is compared with",
    )
    options = parser.parse_args(list(argv))
    likeness = None
    if options.checkpoint is not None:
        from studies.training.likeness import Likeness  # imports torch

        likeness = Likeness.of_checkpoint(options.checkpoint)
    root = Path(options.root).expanduser()
    found = examine_cohort(root, options.layout, options.labels, options.patient)
    # In a file or a pipe every case stays on one line; a terminal wraps long lines.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    console.print(check_table(found.problems, found.notices, found.patients))

    def say(sentence: str) -> None:
        console.print(plain(sentence), markup=False, highlight=False)

    for sentence in found.sentences:
        say(sentence)
    meanings = sorted({case.convention.describe() for case in found.cases})
    console.print(f"labels read as {' or '.join(meanings)}", markup=False, highlight=False)
    layouts = ", ".join(sorted({case.layout for case in found.cases}))
    plural = "" if len(found.problems) == 1 else "s"
    console.print(f"{len(found.problems)} case{plural} ({layouts}), {len(found.bad)} of them bad")
    if found.exams:
        console.print("raw exams, checked by names and headers: lightning prepare registers them")
    if likeness is not None and found.exams:
        say(f"not compared with {options.checkpoint}: register them first, and check that folder")
    elif likeness is not None and len(found.bad) < len(found.problems):
        for sentence in likeness.compare(root, options.layout, options.labels):
            say(sentence)
    return 1 if found.bad else 0
