"""Types of settings in plain words."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    **dict.fromkeys((str, Path, timedelta), "text"),
    **dict.fromkeys((list, tuple, set, Sequence, Iterable), "a list in brackets"),
    **dict.fromkeys((dict, Mapping), "keys with values"),
    NoneType: "null",
}


def expected(hint: Any) -> str:
    """Return the values that a type accepts, in words; empty where it accepts anything."""
    words = dict.fromkeys(_words(hint))
    # "null" last: it is the least likely to be meant
    return " or ".join(sorted(words, key=lambda one: one == "null"))


def _words(hint: Any) -> Iterator[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for part in parts:
            yield from _words(part)
    elif origin is Annotated:
        yield from _words(parts[0])
    elif origin is Literal:
        yield f"{'one of ' * (len(parts) > 1)}{', '.join(map(str, parts))}"
    elif isinstance(kind := origin or hint, type) and kind is not Any:
        words = WORDS.get(kind, "the path of a class")
        inside = parts[-1 if kind is dict else 0] if parts and kind in WORDS else None
        each = expected(inside) if inside in WORDS or get_origin(inside) is Literal else ""
        yield f"{words} (each {each})" if each else words


def import_path(kind: type) -> str:
    """Return the shortest import path of a class."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    offers = [one for one in modules if getattr(sys.modules.get(one), kind.__name__, None) is kind]
    return f"{(offers or modules[-1:])[0]}.{kind.__qualname__}"
