"""Progress of a command: a bar in a terminal, lines in a log, or a file for the parent process."""

import json
import time
from pathlib import Path
from typing import Any, Self

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import Progress, TaskID

from files import write_atomically
from progress import draws_bars, make_progress

VERBS = {"validate": "validating", "test": "testing", "predict": "predicting"}


def read_state(file: Path) -> dict[str, Any] | None:
    """Return the state that :class:`RunProgress` wrote; None where the file is absent or partial.

    ``done`` and ``total`` steps or patients, ``scores`` for a bar, and the ``line`` of the last
    finished epoch, empty before.
    """
    try:
        state: dict[str, Any] = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return state


def format_scores(metrics: dict[str, Any]) -> str:
    """Return the latest loss and validation Dice as one short text."""
    parts = []
    if "train/loss" in metrics:
        parts.append(f"loss {float(metrics['train/loss']):.3f}")
    for region in ("WT", "TC", "ET"):
        if f"val/dice/{region}" in metrics:
            parts.append(f"{region} {float(metrics[f'val/dice/{region}']):.3f}")
    return "  ".join(parts)


class RunBars:
    """Show the progress of other processes: a bar each in a terminal, else a line an epoch.

    A process is identified by the file that its `RunProgress` writes.

    Args:
        console: console to draw on; None: stdout.
        indent: text before each line.
    """

    def __init__(self, console: Console | None = None, indent: str = "") -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.bars = make_progress(self.console)
        self.drawn = not self.bars.disable
        self.indent = indent
        self.tasks: dict[Path, TaskID] = {}
        self.printed: dict[Path, str] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, file: Path, title: str) -> None:
        """Add the bar of a process that starts."""
        self.tasks[file] = self.bars.add_task(title, total=None, scores="starting")

    def end(self, file: Path) -> None:
        """Remove the bar of a process."""
        if file in self.tasks:
            self.bars.remove_task(self.tasks.pop(file))

    def look(self, file: Path, title: str, *, lines: bool = True) -> None:
        """Update the display from the file of a process.

        Args:
            file: the process's progress file.
            title: description of the process.
            lines: whether finished epochs are printed where no bar can be drawn.
        """
        state = read_state(file)
        if state is None or file not in self.tasks:
            return
        self.bars.update(
            self.tasks[file],
            completed=state["done"],
            total=state["total"],
            scores=state["scores"],
        )
        if not self.drawn and lines and state["line"] != self.printed.get(file, ""):
            self.printed[file] = state["line"]
            self.console.print(f"{self.indent}{title}  {state['line']}", markup=False)


class RunProgress(ProgressBar):
    """Show progress in optimisation steps for a training, in patients for other commands.

    In a terminal it is a bar with the epoch, the latest loss and validation Dice; elsewhere a line
    an epoch. A stage in the background writes ``file`` instead, and its parent draws the bar.

    Args:
        description: name of what is running, such as the experiment.
        file: progress file of a stage in the background; None: show progress here.
    """

    def __init__(self, description: str, file: Path | None = None) -> None:
        super().__init__()
        self.description = description
        self.file = file
        self.scores = ""
        self.epoch = ""  # current epoch
        self.line = ""  # line of the last finished epoch
        self.done = 0
        self.total: int | None = None
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.reported = 0.0

    def disable(self) -> None:
        """Ignore Lightning's request on ranks other than zero: ``_open`` looks at the rank."""

    def enable(self) -> None:
        """Lightning's counterpart of ``disable``."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar over all steps of the training."""
        steps = int(trainer.num_training_batches)
        epochs = trainer.max_epochs or 1
        self._open(trainer, self.description, steps * epochs, trainer.current_epoch * steps)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the number of the epoch."""
        self.epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._report(force=True)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Advance by a step."""
        self._advance()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch's scores; print them where there is no terminal."""
        self.scores = format_scores(dict(trainer.callback_metrics))
        self.line = f"{self.epoch}  {self.scores}"
        self._report(force=True)
        if self.file is None and trainer.is_global_zero and not draws_bars():
            print(f"{self.description}  {self.line}", flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a bar over the patients, unless validation is part of a training."""
        if trainer.state.fn == "validate":
            self._open_cases(trainer, trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Advance by a patient."""
        if trainer.state.fn == "validate":
            self._advance()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar, unless a training goes on."""
        if trainer.state.fn == "validate":
            self._close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a bar over the patients."""
        self._open_cases(trainer, trainer.num_test_batches)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Advance by a patient."""
        self._advance()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open a bar over the patients."""
        self._open_cases(trainer, trainer.num_predict_batches)

    def on_predict_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Advance by a patient; end where the process was asked to, which Lightning overlooks."""
        self._advance()
        if trainer.received_sigterm:
            raise SIGTERMException

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, *args: Any) -> None:
        """Close the bar before an error is printed."""
        self._close()

    def _open_cases(self, trainer: L.Trainer, batches: list[int | float]) -> None:
        verb = VERBS.get(str(trainer.state.fn.value if trainer.state.fn else ""), "running")
        self._open(trainer, f"{self.description}  {verb}", int(sum(batches)), 0)

    def _open(self, trainer: L.Trainer, description: str, total: int, done: int) -> None:
        self.done, self.total = done, total
        if self.file is None and trainer.is_global_zero and draws_bars():
            self.progress = make_progress()
            self.task = self.progress.add_task(description, total=total, completed=done, scores="")
            self.progress.start()
        self._report(force=True)

    def _advance(self) -> None:
        self.done += 1
        self._report()

    def _report(self, *, force: bool = False) -> None:
        shown = "  ".join(filter(None, [self.epoch, self.scores]))
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=self.done, scores=shown)
        elif self.file is not None and (force or time.monotonic() - self.reported > 0.5):
            self.reported = time.monotonic()
            state = {"done": self.done, "total": self.total, "scores": shown, "line": self.line}
            write_atomically(self.file, json.dumps(state))

    def _close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
