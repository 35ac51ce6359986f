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
VALUE = re.compile(r"(?:Got|Given) value: (.*?)(?=\.? Got value: | - Expected| Given value|$)")
NESTED = re.compile(r"NestedArg\(key='[^']*', val='?(.*?)'?\)$")  # how jsonargparse wraps a value
LACKING = re.compile(r"the following arguments are required: ([\w., ]*\w)")
CLASS_BEFORE = re.compile(r"class_path '([^']+)': $")
CLASS_BEHIND = re.compile(r"value: Namespace\(class_path='([^']+)'")
NO_CLASS = re.compile(
    r"(?:module '[\w.]+' has no attribute '\w+'|No module named '[\w.]+')(?=[. ]|$)"
)
PATH = re.compile(r"Expected a path but (\S+) either not accessible")
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
    shown = NESTED.sub(r"\1", value[1].rstrip(". "))
    return ".".join(key[1] for key in keys), shown, " or ".join(ordered)


def wrong_class(text: str) -> tuple[str, str] | None:
    """Return the setting whose class cannot be used, and what is wrong; None for another fault.

    Args:
        text: of a parser's error, in one line.
    """
    keys = list(KEY.finditer(text))
    if not keys:
        return None
    inside, path = text[keys[-1].end() :], ".".join(key[1] for key in keys)
    if lacking := LACKING.search(inside):
        named = CLASS_BEFORE.search(inside[: lacking.start()]) or CLASS_BEHIND.search(inside)
        what = f"is {named[1]} and " if named else ""
        return path, f"{what}lacks {lacking[1]}: give each a value, as --{path}.NAME"
    given, missing = PATH.search(inside), NO_CLASS.search(inside)
    if given and missing:
        return path, f"is {given[1]}, which cannot be imported ({missing[0]}): correct the path"
    return None


def _words(kind: str) -> str:
    """Return a type in words; empty for a class, whose path was to be given."""
    if kind.startswith("typing."):
        return f"one of {kind.partition('[')[2].rstrip(']')}".replace("'", "")
    return TYPES.get(kind.split("'")[1].rpartition(".")[2], "")
