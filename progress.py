"""How far something long is: a bar in a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

from tqdm import tqdm

EVERY_SECONDS = 60.0  # a line at most


def make_bar(iterable: Iterable[Any] | None = None, **settings: Any) -> "tqdm[Any] | Lines":
    """Return a bar on stderr, or where that is no terminal what writes lines instead.

    Args:
        iterable: whose elements are counted; None: ``update`` counts.
        **settings: of tqdm: desc, total, unit, initial, disable, delay, unit_scale.
    """
    kind: Any = tqdm if sys.stderr.isatty() else Lines
    bar: tqdm[Any] | Lines = kind(iterable, **settings)
    return bar


class Lines:
    """What tqdm does, for a log: a line a minute at most and one at the end, no control characters.

    Args:
        iterable: whose elements are counted.
        desc: what is done.
        total: how many there are; None: unknown.
        unit: of what, where numbers are shortened.
        initial: how many were done before.
        disable: whether nothing is written.
        delay: seconds; what ends before is not worth a line.
        unit_scale: whether numbers are shortened, as of bytes.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str = "",
        total: int | None = None,
        *,
        unit: str = "it",
        initial: int = 0,
        disable: bool = False,
        delay: float = 0.0,
        unit_scale: bool = False,
    ) -> None:
        self.iterable = iterable or ()
        self.desc = desc
        self.total = total
        self.unit = unit
        self.done = self.initial = initial
        self.disable = disable
        self.delay = delay
        self.unit_scale = unit_scale
        self.began = self.said = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for element in self.iterable:
                yield element
                self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.done > self.initial and time.monotonic() - self.began >= self.delay:
            self._say()

    def update(self, number: int = 1) -> None:
        """Count what is done."""
        self.done += number
        if self.done != self.total and time.monotonic() - self.said >= EVERY_SECONDS:
            self._say()

    def write(self, text: str, file: Any = None) -> None:
        """Print a line."""
        print(text, file=file or sys.stdout, flush=True)

    def _say(self) -> None:
        self.said = time.monotonic()
        done, total = (
            f"{tqdm.format_sizeof(number)}{self.unit}" if self.unit_scale and number else number
            for number in (self.done, self.total)
        )
        count = f"{done}" if total is None else f"{done} of {total}"
        elapsed = tqdm.format_interval(self.said - self.began)
        if not self.disable:
            print(f"{self.desc}: {count}, {elapsed}", file=sys.stderr, flush=True)
