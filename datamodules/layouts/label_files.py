"""The meaning of label values by a convention's name or from a YAML file."""

from pathlib import Path
from typing import Any

from datamodules.layouts.conventions import CONVENTIONS, LabelConvention
from datamodules.layouts.description_files import LabelFile, read_yaml, validated
from errors import InputError

LABELS_NEEDED = (
    "the key labels with three different whole numbers, or lists of them, such as labels: "
    "{necrosis: 1, oedema: 2, enhancing: 4, background: [3]}, or {whole: 1} for masks of the whole "
    "tumour alone"
)


def named_convention(words: str, option: str) -> LabelConvention:
    """Return the meaning of label values by name or from a YAML file.

    Args:
        words: a name of `CONVENTIONS`, or a file with necrosis, oedema, enhancing and, for values
            that count as background, background; or with whole for masks of the whole tumour.
        option: as it was given, ``data.labels`` or ``--labels``, for messages.

    Raises:
        InputError: if there is no such name or file, or the file does not state a meaning.
    """
    if words in CONVENTIONS:
        return CONVENTIONS[words]
    path = Path(words).expanduser()
    if not path.is_file():
        raise InputError(
            f"{option} {words} is neither a file nor one of {', '.join(CONVENTIONS)}: give one "
            "of these, or a YAML file with necrosis, oedema and enhancing."
        )
    return read_labels(path)


def refuse_labels_of_phantoms(labels: str | None) -> None:
    """Refuse `data.labels` for phantoms, whose label values are known.

    Raises:
        InputError: `labels` is given.
    """
    if labels is not None:
        raise InputError(
            f"data.labels {labels} states what patients' label values mean, but there are no "
            "patients: give data.root, or leave data.labels unset for phantoms."
        )


def read_labels(path: Path) -> LabelConvention:
    """Return the meaning of label values from a YAML file, a layout's or one of labels alone.

    Raises:
        InputError: As `read_convention`, or the file is no YAML.
    """
    return read_convention(read_yaml(path, "the file of label values"), path)


def read_convention(described: Any, description: Path) -> LabelConvention:
    """Return the meaning of label values from a file's content, under ``labels`` or alone.

    Raises:
        InputError: A class has no value, or two have the same, background among them.
    """
    needs = {"": LABELS_NEEDED, "labels": LABELS_NEEDED}
    found = validated(LabelFile, described, description, needs)
    return found.labels.convention(found.name or description.stem)
