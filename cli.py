"""The ``lightning`` command: a table of subcommands, each imported only when it is used."""

import gc
import importlib
import sys
from collections.abc import Callable

from errors import InputError, TerminatedError
from files import FULL

COMMANDS = {
    "fit": (
        "studies.commands.fit:main",
        "train an experiment, and first what it needs",
    ),
    "validate": (
        "studies.commands.apply:validate",
        "score a trained model on its validation patients",
    ),
    "test": (
        "studies.commands.apply:test",
        "score a trained model on patients it never saw",
    ),
    "predict": (
        "studies.commands.apply:predict",
        "segment patients: NIfTI, volumes, overlays",
    ),
    "evaluate": (
        "studies.commands.evaluate:main",
        "score the masks of any tool against references",
    ),
    "benchmark": (
        "studies.commands.benchmark:main",
        "train and test every system of a file, for its tables",
    ),
    "sweep": (
        "studies.commands.sweep:main",
        "train the trials of a W&B sweep file, without an account",
    ),
    "reproduce": (
        "studies.commands.reproduce:main",
        "train a run again from its folder, compare the scores",
    ),
    "export": (
        "studies.commands.export:main",
        "write the weights of a run as a file for others",
    ),
    "check": (
        "studies.commands.check:main",
        "check a cohort, all cases in one table",
    ),
    "dashboard": (
        "studies.commands.dashboard:main",
        "build the page of all runs on W&B, or show it",
    ),
    "compare": (
        "studies.commands.compare:main",
        "compare tested systems over the same patients",
    ),
    "report": (
        "studies.commands.report:main",
        "write one page of runs or a benchmark, offline",
    ),
    "prepare": (
        "datamodules.registration.command:main",
        "register raw exams to T2, with a report and a picture of each",
    ),
    "phantom": (
        "datamodules.phantom.simulation:main",
        "write synthetic glioma patients",
    ),
}


def usage() -> str:
    """Return the overview that ``lightning --help`` prints."""
    rows = [f"  {name:<10} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lightning COMMAND [options]",
            "",
            "Glioma segmentation in four-modality MRI: train, compare, use.",
            "",
            "commands:",
            *rows,
            "",
            "Start with:  lightning fit --config experiments/fusion.yaml",
            "Options of a command:  lightning COMMAND --help",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return the exit status (0 done, 2 wrong input)."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] not in COMMANDS:
        print(
            f"lightning: there is no command '{words[0]}': use one of {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    try:
        status = _imported(COMMANDS[words[0]][0])(words[1:])
    except InputError as error:
        print(f"lightning {words[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(
            f"lightning {words[0]}: stopped; what is finished is kept, and a training goes on with "
            "--resume.",
            file=sys.stderr,
        )
        return 143 if isinstance(stop, TerminatedError) else 130  # as a shell names the signals
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"lightning {words[0]}: the disk is full{where}: free some space and repeat the "
            "command; what is finished is kept.",
            file=sys.stderr,
        )
        return 2
    return int(status or 0)


def _imported(command: str) -> Callable[[list[str]], int | None]:
    """Import the function of a command, ``module:function``.

    Imports make a million objects that stay. To search them for garbage, again and again, was a
    sixth of the time until a training begins, so they are left out of it.
    """
    module, _, function = command.partition(":")
    begins = "torch" not in sys.modules and gc.isenabled()
    if begins:
        gc.disable()
    try:
        return getattr(importlib.import_module(module), function)
    finally:
        if begins:
            gc.freeze()
            gc.enable()


if __name__ == "__main__":
    sys.exit(main())
