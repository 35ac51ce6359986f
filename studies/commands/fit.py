"""The `lightning fit` command: train an experiment, after its missing stages."""

from lightning_modules.callbacks.metrics_file import running_as_stage
from studies.runs.process import stop_with_parent
from studies.runs.unused_options import check_typed
from studies.settings.command_line import CommandLine
from studies.training.fitting import AlreadyFinishedError
from studies.training.lightning_cli import ExperimentCLI, asks_for_help, quiet


def main(words: list[str]) -> int:
    """Train an experiment, after its missing stages."""
    quiet()
    if running_as_stage():
        stop_with_parent()
    line = CommandLine.parse(words)
    if not asks_for_help(line):
        check_typed("fit", line)
        line.check()
    try:
        ExperimentCLI("fit", line)
    except AlreadyFinishedError as finished:
        print(finished)
    return 0
