"""The exception for wrong input that the user can mend."""


class InputError(ValueError):
    """A mistake in data, configuration or files that the user can mend.

    Its text is one sentence: what is wrong, in which file or key, what was expected, what to do.
    The command line prints that sentence alone; every other exception is a fault of the program
    and keeps its traceback.
    """


class TerminatedError(KeyboardInterrupt):
    """The system or a scheduler asked this process to end (SIGTERM)."""
