"""The one progress display: bars in a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self, TextIO

from rich import get_console
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EVERY_SECONDS = 60.0  # between lines in a log, at least
REMEMBERED_SECONDS = 1800.0  # for the time left: a patient may take minutes


def draws_bars(console: Console | None = None) -> bool:
    """Whether a bar can be redrawn: not in a log, even with FORCE_COLOR.

    Args:
        console: console to draw on; None: the default one on stdout.
    """
    console = console or get_console()
    return bool(console.file.isatty()) and not console.is_dumb_terminal


def make_progress(console: Console | None = None, *, in_bytes: bool = False) -> Progress:
    """Return a progress display with name, bar, count, times and latest scores.

    It shows nothing where no bar can be drawn. Text that is printed meanwhile appears above the
    bars; output that is redirected to a file still goes there.

    Args:
        console: console to draw on; None: the default one on stdout.
        in_bytes: whether bytes are counted.
    """
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=28),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[scores]}", markup=False),
        console=console,
        speed_estimate_period=REMEMBERED_SECONDS,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
        disable=not draws_bars(console),
    )


class Bar:
    """Count elements on stderr: a bar in a terminal, in a log a line a minute and one at the end.

    Args:
        iterable: iterable whose elements are counted; None: `update` counts.
        desc: description of the work.
        total: number of elements; None: unknown.
        initial: number of elements done before.
        disable: whether nothing is written.
        delay: seconds before a bar or a line is shown.
        in_bytes: whether bytes are counted.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str,
        total: int | None = None,
        initial: int = 0,
        disable: bool = False,
        delay: float = 0.0,
        in_bytes: bool = False,
    ) -> None:
        self.iterable = iterable or ()
        self.desc = desc
        self.total = total
        self.done = self.initial = initial
        self.disable = disable
        self.delay = delay
        self.in_bytes = in_bytes
        self.console = Console(stderr=True)
        self.bars = make_progress(self.console, in_bytes=in_bytes)
        self.task = self.bars.add_task(desc, total=total, completed=initial, scores="")
        self.began = self.printed = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        for element in self.iterable:
            yield element
            self.update()

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
        if self.done > self.initial and self._is_worth_it():
            self._print_line()

    def update(self, number: int = 1) -> None:
        """Add to the number of elements done."""
        self.done += number
        self.bars.update(self.task, completed=self.done)
        self._draw()
        if self.done != self.total and time.monotonic() - self.printed >= EVERY_SECONDS:
            self._print_line()

    def write(self, text: str, file: TextIO | None = None) -> None:
        """Print a line, above the bar where there is one."""
        file = file or sys.stdout
        if self.bars.live.is_started and file.isatty():
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=file, flush=True)

    def _is_worth_it(self) -> bool:
        return not self.disable and time.monotonic() - self.began >= self.delay

    def _draw(self) -> None:
        if self._is_worth_it() and not self.bars.live.is_started:
            self.bars.start()

    def _print_line(self) -> None:
        self.printed = time.monotonic()
        if self.disable or not self.bars.disable:
            return
        done, total = (self._shown(number) for number in (self.done, self.total))
        count = f"{done} of {total}" if self.total is not None else f"{done}"
        minutes, seconds = divmod(int(self.printed - self.began), 60)
        hours, minutes = divmod(minutes, 60)
        elapsed = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
        print(f"{self.desc}: {count}, {elapsed}", file=sys.stderr, flush=True)

    def _shown(self, number: int | None) -> str:
        if self.in_bytes and number:
            return decimal(number, precision=2, separator="")
        return f"{number}"
