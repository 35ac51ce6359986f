"""A value of the wrong type, as jsonargparse refuses it, in one sentence."""

import re

# A type as jsonargparse prints it, and what a person would write.
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list in brackets",
    "dict": "keys with values",
    "NoneType": "null",
}
KEY = re.compile(r'Parser key "([^"]+)": ')
VALUE = re.compile(r"(?:Got|Given) value: (.*?)(?= - Expected| Given value|$)")
EXPECTED = re.compile(r"Expected an? (<class '[^']+'>|typing\.Literal\[[^\]]*\])")


def wrong_type(text: str) -> tuple[str, str, str] | None:
    """Return the setting, its value and what was expected; None where the fault is another.

    Args:
        text: of a parser's error, in one line.
    """
    keys = list(KEY.finditer(text))
    if not keys:
        return None
    inside = text[keys[-1].end() :]
    value = VALUE.search(inside)
    expected = EXPECTED.findall(inside[: value.start()] if value else inside)
    if value is None or not expected or "Problem with given class_path" in inside:
        return None
    wanted = [words for kind in expected if (words := _words(kind))]
    if "not accessible" in inside or "dot import path" in inside:  # a class is taken too
        wanted.append("the path of a class")
    if not wanted:
        return None
    # "null" is last: it stands for leaving the setting out
    ordered = sorted(dict.fromkeys(wanted), key=lambda words: words == "null")
    return ".".join(key[1] for key in keys), value[1].rstrip(". "), " or ".join(ordered)


def _words(kind: str) -> str:
    """Return a type in words; empty for a class, whose path was to be given."""
    if kind.startswith("typing."):
        return f"one of {kind.partition('[')[2].rstrip(']')}".replace("'", "")
    return TYPES.get(kind.split("'")[1].rpartition(".")[2], "")
