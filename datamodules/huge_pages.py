"""Large arrays on huge pages.

A fresh 33 MB array is otherwise 8192 pages of 4 kB, and the system's work of handing them out one
by one takes longer (13 ms) than filling them (1 ms).
"""

import contextlib
import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

LARGE = 24 << 20  # bytes; smaller arrays get the pages of a freed one from the C library


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to be filled, as `numpy.empty`, on huge pages where it is large and they exist."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, kind)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages: the memory is good as it is
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, kind).reshape(shape)
