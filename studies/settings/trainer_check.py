"""Check of the trainer's settings before anything is prepared."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L  # noqa: N812, the name its own documentation uses
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.base import CohortData
from errors import InputError

REFUSALS = (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError)
DEFAULTS = {
    name: parameter.default for name, parameter in inspect.signature(L.Trainer).parameters.items()
}
BUILT_ELSEWHERE = ("logger", "callbacks")  # objects

# Settings that Lightning accepts but that fail later or train nothing: valid values, in words.
EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_epochs": (lambda value: value != 0, "1 or more, or -1 for no limit"),
    "min_epochs": (lambda value: value >= 0, "0 or more"),
    "min_steps": (lambda value: value >= 0, "0 or more"),
    "limit_train_batches": (lambda value: value != 0, "some batches to train on"),
    "limit_val_batches": (lambda value: value != 0, "some patients that select the checkpoint"),
    "accumulate_grad_batches": (lambda value: value >= 1, "1 or more"),
    "gradient_clip_val": (lambda value: value >= 0, "0 or more, where 0 does not clip"),
    "check_val_every_n_epoch": (lambda value: value >= 1, "1 or more"),
    "val_check_interval": (lambda value: value != 0, "a share of an epoch or a number of batches"),
    "log_every_n_steps": (lambda value: value >= 0, "0 or more"),
}
# Switches that cannot be turned off, and what to do instead.
ALWAYS_ON = {
    "enable_progress_bar": "output that is no terminal gets no bar, so | cat behind the command "
    "removes it",
    "enable_checkpointing": "test and predict need the checkpoints, and --trainer.fast_dev_run 1 "
    "tries a training without any",
}


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse invalid trainer settings of a training.

    Args:
        settings: ``trainer`` of a resolved configuration, plain types.

    Raises:
        InputError: naming the setting.
    """
    for name, (fits, expected) in EXPECTED.items():
        value = settings.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not fits(value):
            raise InputError(f"trainer.{name} is {value}: expected {expected}.")
    rehearsal = bool(settings.get("fast_dev_run"))
    for name, instead in ALWAYS_ON.items():
        if settings.get(name) is False and not (rehearsal and name == "enable_checkpointing"):
            raise InputError(f"trainer.{name} is False: leave it out; {instead}.")
    if str(settings.get("precision")) in ("64", "64-true"):
        raise InputError(
            f"trainer.precision is {settings['precision']!r}: masks are computed in 32 "
            "bits or fewer, expected 32-true, bf16-mixed or 16-mixed."
        )
    least, most = settings.get("min_epochs"), settings.get("max_epochs")
    if least and most is not None and 0 <= most < least:
        raise InputError(
            f"trainer.min_epochs is {least}, more than trainer.max_epochs, {most}: expected at "
            "most as many."
        )
    every = settings.get("check_val_every_n_epoch")
    if every and most is not None and 0 < most < every:
        raise InputError(
            f"trainer.check_val_every_n_epoch is {every}, more than trainer.max_epochs, {most}, so "
            "no epoch would be validated and no checkpoint selected: expected at most as many."
        )
    steps = settings.get("max_steps")
    if steps is not None and steps != -1 and steps < 1:
        raise InputError(f"trainer.max_steps is {steps}: expected 1 or more, or -1 for no limit.")
    tried = {
        name: DEFAULTS[name] if name in BUILT_ELSEWHERE or _holds_objects(value) else value
        for name, value in settings.items()
        if name in DEFAULTS
    }
    with _silently():
        build_trainer({**tried, "logger": False})


def build_trainer(settings: Mapping[str, Any]) -> L.Trainer:
    """Return Lightning's trainer.

    Raises:
        InputError: when a setting is invalid, naming it; other errors are raised unchanged.
    """
    try:
        return L.Trainer(**settings)
    except REFUSALS as error:
        names = _culprits(settings, error)
        if not names:
            raise
        given = ", ".join(f"trainer.{name} is {_shown(settings[name])}" for name in names)
        raise InputError(f"{given}: {_sentence(error)}") from error


@contextmanager
def explained() -> Iterator[None]:
    """Turn Lightning's errors about a trainer and its data into an InputError.

    Raises:
        InputError: with Lightning's message.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(f"The trainer's settings do not fit: {_sentence(error)}") from error


def _culprits(settings: Mapping[str, Any], error: BaseException) -> list[str]:
    """Return the settings that keep a trainer from being built, as few as possible.

    Empty where the fault is not in a setting.
    """
    changed = [
        name
        for name, value in settings.items()
        if name not in BUILT_ELSEWHERE and name in DEFAULTS and repr(value) != repr(DEFAULTS[name])
    ]
    with _silently():
        # first the setting that Lightning names: of two that clash, either could be the one
        for name in sorted(changed, key=lambda one: one not in str(error)):
            if _builds({**settings, name: DEFAULTS[name]}):
                return [name]
        plain = {name: DEFAULTS[name] for name in changed}
        return changed if changed and _builds({**settings, **plain}) else []


def _builds(settings: Mapping[str, Any]) -> bool:
    try:
        L.Trainer(**settings)
    except REFUSALS:
        return False
    return True


@contextmanager
def _silently() -> Iterator[None]:
    """Suppress the output of a trainer that is built only to test its settings."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".! ")
    return f"{text}."


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _holds_objects(value: Any) -> bool:
    """Whether a setting describes an object by its class, to be built later."""
    inside = value if isinstance(value, list) else [value]
    return any(isinstance(one, Mapping) and "class_path" in one for one in inside)


def check_interval(settings: Mapping[str, Any], data: CohortData) -> None:
    """Refuse a validation interval that does not end where an epoch is saved.

    Args:
        settings: the trainer's.
        data: prepared and split.

    Raises:
        InputError: with the numbers that fit.
    """
    interval, limit = settings.get("val_check_interval"), settings.get("limit_train_batches")
    if not isinstance(interval, int | float) or interval == 1.0:
        return
    batches = len(data.train_dataloader())
    if isinstance(limit, int | float):
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    every = interval if isinstance(interval, int) else max(1, int(batches * interval))
    over_epochs = settings.get("check_val_every_n_epoch") is None
    if batches % every and not (over_epochs and every % batches == 0):
        raise InputError(
            f"trainer.val_check_interval is {interval}: a validation every {every} of the "
            f"{batches} batches of an epoch would not score the weights at its end, which are "
            f"saved: expected a number of batches that divides {batches}"
            + (", or a multiple of it." if over_epochs else ".")
        )
