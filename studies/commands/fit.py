"""The `lightning fit` command: train an experiment, after its missing stages."""

from studies.training.fitting import AlreadyFinishedError
from studies.training.lightning_cli import ExperimentCLI, read_words


def main(words: list[str]) -> int:
    """Train an experiment, after its missing stages."""
    line = read_words("fit", words)
    line.check()
    try:
        ExperimentCLI("fit", line)
    except AlreadyFinishedError as finished:
        if str(finished):
            print(finished)
    return 0
