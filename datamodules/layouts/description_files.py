"""Files in which users describe their data, each read and checked by one schema.

Every fault of such a file becomes one sentence with the file, the key, what was found and what was
expected. A new kind of file is a model here and one call of `validated`.
"""

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from datamodules.layouts.conventions import CLASSES, LabelConvention
from datamodules.layouts.placeholders import names_a_case
from datamodules.layouts.prediction_names import DEFAULT, EXAMPLE, pattern_fault
from errors import InputError
from files import UniqueKeys

Model = TypeVar("Model", bound=BaseModel)
_PLAIN = {  # pydantic's names of types in words that people use of files
    "a valid dictionary": "keys with values",
    "a valid integer": "a whole number",
    "a valid string": "a text in quotes",
    "a valid list": "a list",
}
_SUCH_AS = r"such as '(.+)_visit\d+'"
_TEXTS = {  # texts that need an example
    "patient": f"a regular expression in quotes, {_SUCH_AS}",
    "label": 'one pattern in quotes, such as "{case}/{case}_seg.nii.gz"',
}
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def _file_pattern(pattern: str) -> str:
    """A pattern of file names below a folder."""
    if not names_a_case(pattern):
        raise ValueError(
            "has no {case} in the pattern, which stands for the name of the examination: write it, "
            "or {patient} and {session} instead"
        )
    if pattern.startswith(("/", "~")) or re.match(r"[A-Za-z]:", pattern):
        raise ValueError("is an absolute path: patterns are relative to data.root")
    if "\\" in pattern:
        raise ValueError("holds a backslash: folders are separated by / on every system")
    if {".", ".."} & set(pattern.split("/")):
        raise ValueError("holds . or .. as a folder: patterns lie below data.root")
    if "**" in pattern:
        raise ValueError("holds **: one * stands for anything but /, write */ for each folder")
    return pattern


def _expression(pattern: str) -> str:
    """A regular expression with a group."""
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f'is no regular expression: {pattern!r} fails with "{error}", write one {_SUCH_AS}'
        ) from error
    if not groups:
        raise ValueError(f"has no group: put the patient's part in parentheses, {_SUCH_AS}")
    return pattern


def _as_list(value: Any) -> Any:
    """The value or values of a class; a number in quotes, as older files have it, is a number."""
    values = value if isinstance(value, list) else [value]
    numbers = [int(v) if isinstance(v, str) and re.fullmatch(r"\d{1,3}", v) else v for v in values]
    if not numbers or any(type(v) is not int for v in numbers):
        raise PydanticCustomError("values", "expected a whole number or a list of them")
    return numbers


def _channel_number(key: str) -> str:
    if not re.fullmatch("[0-9]{1,4}", key):
        raise PydanticCustomError("number", 'expected the number of a channel, such as "0"')
    return key


def _as_images(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_listed(value: Any) -> Any:
    """Parts without labels may list files alone."""
    return {"image": value} if isinstance(value, str | list) else value


FilePattern = Annotated[str, AfterValidator(_file_pattern)]
Expression = Annotated[str, AfterValidator(_expression)]
Name = Annotated[str, Field(min_length=1)]
Value = Annotated[int, Field(ge=0, le=255)]
Tumour = Annotated[int, Field(ge=1, le=255)]
Union = Annotated[list[Tumour], BeforeValidator(_as_list)]
Number = Annotated[str, AfterValidator(_channel_number)]


class _Strict(BaseModel):
    """A model that converts no types and refuses unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Loose(BaseModel):
    """A model that converts no types and ignores unknown keys, such as a tool's own."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Labels(_Strict):
    """Meaning of label values: three classes, or the whole tumour alone."""

    necrosis: Union | None = None
    oedema: Union | None = None
    enhancing: Union | None = None
    whole: Union | None = None
    background: list[Value] | None = None

    @model_validator(mode="after")
    def _tells_every_value_once(self) -> Self:
        classes = {kind: getattr(self, kind) for kind in (*CLASSES, "whole")}
        given = {kind: values for kind, values in classes.items() if values is not None}
        if set(given) not in ({*CLASSES}, {"whole"}):
            lacking = [kind for kind in CLASSES if kind not in given]
            if "whole" in given:
                raise ValueError("has whole beside other classes")
            raise ValueError(f"has no {', '.join(lacking)}")
        values = [v for several in given.values() for v in several] + (self.background or [])
        repeated = sorted({v for v in values if values.count(v) > 1})
        if repeated:
            raise ValueError(f"has {repeated[0]} twice")
        return self

    def convention(self, name: str) -> LabelConvention:
        """The convention that the values describe."""
        background = tuple(self.background or ())
        if self.whole is not None:
            whole: LabelConvention = LabelConvention.whole_tumour(
                name, *self.whole, background=background
            )
            return whole
        classes = {kind: tuple(getattr(self, kind)) for kind in CLASSES}
        return LabelConvention(name, **classes, background=background)


class LabelFile(_Loose):
    """A file of label values: a layout's, of which only two keys count, or the values alone."""

    name: Name | None = None
    labels: Labels

    @model_validator(mode="before")
    @classmethod
    def _values_alone(cls, content: Any) -> Any:
        if not isinstance(content, dict) or {"labels", "images"} & set(content):
            return content
        named = {"name": content["name"]} if "name" in content else {}
        return {**named, "labels": {k: v for k, v in content.items() if k != "name"}}


class Channel(_Strict):
    """One channel of a 4-D file."""

    file: FilePattern
    channel: Annotated[int, Field(ge=0)] | None = None


def _as_channel(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


Image = Annotated[Channel, BeforeValidator(_as_channel)]


class Images(_Strict):
    """The file pattern of each modality."""

    t1: Image
    t1ce: Image
    t2: Image
    flair: Image

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        seen: dict[tuple[str, int | None], str] = {}
        for modality in type(self).model_fields:
            image: Channel = getattr(self, modality)
            place = (image.file, image.channel)
            if place in seen:
                raise ValueError(f"has one pattern for {seen[place]} and {modality}: {image.file}")
            seen[place] = modality
        return self


class LayoutFile(_Strict):
    """A layout described in YAML."""

    name: Name | None = None
    images: Images
    label: FilePattern | None = None
    labels: Labels
    patient: Expression | None = None
    prediction: Any = DEFAULT  # text; `pattern_fault` checks it together with the other patterns

    @model_validator(mode="after")
    def _files_are_different(self) -> Self:
        images = [getattr(self.images, m).file for m in Images.model_fields]
        if self.label in images:
            raise ValueError(f"has one pattern for an image and the label: {self.label}")
        fault = pattern_fault(self.prediction, images)
        if fault:
            raise ValueError(
                f"prediction is {self.prediction!r}, which {fault}: expected a name such as "
                f"{EXAMPLE}"
            )
        return self


class DatasetFile(_Loose):
    """`dataset.json` of MSD, and of both versions of nnU-Net."""

    channel_names: dict[Number, str] | None = None
    modality: dict[Number, str] | None = None
    labels: dict[str, Annotated[list[Value], BeforeValidator(_as_list)]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_to_values(cls, content: Any) -> Any:
        """MSD and nnU-Net version 1 write {"1": "edema"}, version 2 {"edema": 1} or a list."""
        labels = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(labels, dict):
            return content
        turned: dict[str, Any] = {}
        for left, right in labels.items():
            if left.isdecimal() and isinstance(right, str) and not right.isdecimal():
                turned[right] = [*turned.get(right, []), left]
            else:
                turned[left] = right
        return {**content, "labels": turned}


CaseIds = Annotated[list[Name], Field(min_length=1)]


class SplitParts(_Loose):
    """Case ids of each part."""

    train: CaseIds
    val: CaseIds
    test: CaseIds


class SplitFold(_Loose):
    """One fold of nnU-Net's `splits_final.json`, or of one that names test cases too."""

    train: CaseIds
    val: CaseIds
    test: CaseIds | None = None


class SplitFolds(RootModel[Annotated[list[SplitFold], Field(min_length=1)]]):
    """nnU-Net's `splits_final.json`."""

    model_config = ConfigDict(strict=True)


class Listed(_Loose):
    """One patient of a MONAI data list."""

    image: Annotated[list[Name], Field(min_length=1), BeforeValidator(_as_images)]
    fold: Annotated[int, Field(ge=0)] | None = None


Patients = list[Annotated[Listed, BeforeValidator(_as_listed)]]


class DataList(_Loose):
    """A MONAI data list, with folds in its training part or with other parts beside it."""

    training: Annotated[Patients, Field(min_length=1)]
    validation: Patients = []
    test: Patients = []
    testing: Patients = []


def validated(
    model: type[Model], content: Any, path: Path, needs: str | Mapping[str, str] = ""
) -> Model:
    """Content of a file, checked whole.

    Args:
        model: What the file has to hold.
        content: What JSON or YAML hold.
        path: The file, for messages.
        needs: What belongs into the file, for messages; or one text for each of its top keys, with
            "" for the file.

    Raises:
        InputError: One sentence: the file, the key, what it is, what was expected.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        steps = faults[0]["loc"]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        fault = _fault(faults[0], model) + more
        key = str(steps[0]) if steps else ""
        needed = needs if isinstance(needs, str) else needs.get(key, "")
        sentence = f"{path} needs {needed}: {fault}" if needed else f"{path}: {fault}"
        raise InputError(f"{' '.join(sentence.split())}.") from error


def _fault(fault: Any, model: type[BaseModel]) -> str:
    """Return one fault as a clause."""
    kind, place = fault["type"], _place(fault["loc"])
    if kind == "missing":
        return f"there is no key {place!r}"
    if kind == "extra_forbidden":
        known = ", ".join(_known(model, fault["loc"][:-1]))
        return f"the key {place!r} is unknown, expected only {known}"
    if kind == "invalid_key":
        return f"the key {fault['input']!r} is no text"
    if kind == "value_error":
        return f"{place} {fault['ctx']['error']}".strip()
    expected = re.sub(r"^(Input|String|List|Dictionary|Value) should (be )?", "", fault["msg"])
    expected = re.sub(r" or instance of \w+", "", expected).removeprefix("expected ")
    expected = re.sub(r"^have (at least .*) after validation.*", r"\1", expected)
    plain = _PLAIN.get(expected, expected)
    wanted = _TEXTS.get(place, plain) if expected == "a valid string" else plain
    holder = f"{place} is" if place else "it holds"
    return f"{holder} {_SHORT.repr(fault['input'])}, expected {wanted}"


def _place(steps: tuple[int | str, ...]) -> str:
    """A place within a file, ``images.flair.channel`` or ``train[3]``."""
    words = ""
    for step in steps:
        if step != "[key]":
            words += f"[{step}]" if isinstance(step, int) else f"{'.' if words else ''}{step}"
    return words


def _known(model: type[BaseModel], steps: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place."""
    for step in steps:
        inner = model.model_fields[str(step)].annotation
        model = next((t for t in (inner, *get_args(inner)) if _is_model(t)), model)
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def read_yaml(path: Path, option: str) -> Any:
    """A YAML file's content.

    Args:
        path: The file.
        option: The option that gave it, for messages.

    Raises:
        InputError: It is not YAML, or a key stands twice.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
        return yaml.load(text, UniqueKeys)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{option} {path} cannot be read as YAML ({' '.join(str(error).split())}): mend or "
            "replace it."
        ) from error
