"""Base class of the commands ``fit``, ``validate``, ``test`` and ``predict``."""

from abc import ABC, abstractmethod
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.base import CohortData
from errors import TerminatedError
from lightning_modules.base import TrainingModule
from studies.runs.run import Run
from studies.tracking import weights_and_biases


class Session(ABC):
    """A command of `ExperimentCLI`, which calls `prepare`, `equip` and `execute` in this order.

    Args:
        run: the run that is trained or used.
        arguments: the parsed arguments of the subcommand.
    """

    def __init__(self, run: Run, arguments: Namespace) -> None:
        self.run = run
        self.arguments = arguments

    @abstractmethod
    def prepare(self) -> None:
        """Check and complete the arguments before model, data and trainer are built."""

    @abstractmethod
    def equip(self, model: TrainingModule, data: CohortData, settings: dict[str, Any]) -> None:
        """Configure the built model and data, and the settings of the trainer to be built.

        Args:
            model: as its constructor left it.
            data: not yet prepared, or prepared when the run was planned.
            settings: the trainer's arguments, changed in place.
        """

    def execute(self, trainer: L.Trainer, model: TrainingModule, data: CohortData) -> None:
        """Run the command, print its summary, and close W&B in any case.

        Lightning answers Ctrl-C and SIGTERM by leaving without a word, SIGTERM with status 0.

        Raises:
            KeyboardInterrupt: instead; `TerminatedError` for SIGTERM.
        """
        try:
            self._run(trainer, model, data)
        except SIGTERMException as error:
            raise TerminatedError from error
        except SystemExit as error:
            if trainer.interrupted:
                raise KeyboardInterrupt from error
            raise
        finally:
            weights_and_biases.finish()

    @abstractmethod
    def _run(self, trainer: L.Trainer, model: TrainingModule, data: CohortData) -> None:
        """Run the command and print its summary."""
