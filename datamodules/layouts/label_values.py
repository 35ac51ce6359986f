"""Checks that label values fit their convention, in one label map and in a whole cohort.

A single map seldom shows that a convention is wrong, a whole cohort does: no hospital's labels of
three classes hold only 0 and 1.
"""

from collections.abc import Iterable, Mapping

from datamodules.layouts.case_files import CaseFiles
from datamodules.layouts.conventions import BY_NAME_PEDIATRIC, CLASSES, CONVENTIONS, LabelConvention
from errors import InputError

Labels = Mapping[str, tuple[LabelConvention, Iterable[int]]]
SEVERAL = 3  # label maps with the same single value; as many are no coincidence


def contradicts(convention: LabelConvention, values: set[int], option: str = "data.labels") -> str:
    """Return why the non-zero `values` of a label do not fit `convention`; empty if they do.

    Args:
        convention: What they are read as.
        values: Whole numbers other than 0.
        option: The option that states another meaning, for the advice.
    """
    unknown = sorted(values - convention.values)
    if unknown:
        known = (
            f"the label holds {', '.join(map(str, unknown))}, but {convention.name} knows only "
            f"{', '.join(map(str, sorted(convention.values)))}"
        )
        if len(values) == 1 and 0 < unknown[0] < 256:
            return f"{known}; {_whole_tumour(values, option)}"
        fitting = _fitting(values, convention)
        return (
            f"{known} (they fit {' or '.join(fitting)}: {option} says which)" if fitting else known
        )
    if convention.name == "brats2023" and 4 in values and 3 not in values:
        # 2023 has no 4; with a 3 beside it, it can only be the cavity of 2024, alone it may be
        # enhancing tumour written as until 2021, and reading it as background would lose it.
        return (
            f"the label holds 4 and no 3, which BraTS 2023 does not use: give {option} "
            "brats2024 if 4 is the resection cavity, brats2021 if it is enhancing tumour"
        )
    return ""


def remarks(labels: Labels) -> dict[str, str]:
    """Return notices about single labels of a cohort, by case id."""
    found = {}
    for case_id, (convention, held) in labels.items():
        values = set(held) - {0}
        if len(convention.regions) > 1 and len(values) == 1:
            (value,) = values
            kind = next((kind for kind in CLASSES if value in convention.of(kind)), "background")
            found[case_id] = (
                f"the label holds only {value} ({kind}): leave the case out if that is a mask of "
                "the whole tumour"
            )
    return found


def refuse_whole_tumours(cases: Iterable[CaseFiles], because: str, instead: str) -> None:
    """Refuse labels of the whole tumour alone where three regions are needed.

    Args:
        cases: The cases.
        because: Why three regions are needed, for the message.
        instead: What to do without them, for the message.

    Raises:
        InputError: A case's labels distinguish no other region.
    """
    whole = next((case for case in cases if len(case.convention.regions) == 1), None)
    if whole is not None:
        raise InputError(
            f"the labels of {whole.case_id} are read as {whole.convention.describe()}, but "
            f"{because}: {instead}, or give data.labels a meaning with necrosis, oedema and "
            "enhancing."
        )


def misread(labels: Labels, option: str = "data.labels", *, stated: bool = False) -> dict[str, str]:
    """Problem of each label of a cohort whose values, all together, contradict their meaning.

    Args:
        labels: Case id to the convention a label is read by, and its values.
        option: The option that states another meaning, for the advice.
        stated: Whether the masks of a tool are stated to mean this; a tool may find oedema alone.
    """
    cohorts: dict[LabelConvention, dict[str, set[int]]] = {}
    for case_id, (convention, values) in labels.items():
        if set(values) - {0}:
            cohorts.setdefault(convention, {})[case_id] = set(values) - {0}
    problems = {}
    for convention, held in cohorts.items():
        problem = _misread(convention, held, option, stated)
        problems.update(dict.fromkeys(held, problem) if problem else {})
    return problems


def _misread(
    convention: LabelConvention, held: Mapping[str, set[int]], option: str, stated: bool
) -> str:
    everything = set.union(*held.values())
    if len(convention.regions) > 1 and len(everything) == 1 and not everything - convention.values:
        alone = everything == {1} or (len(held) >= SEVERAL and not stated)
        found = option == "--prediction_labels" and everything != {1}
        return _whole_tumour(everything, option, one_class=found) if alone else ""
    if convention.name == BY_NAME_PEDIATRIC and 4 not in everything:
        new, old = CONVENTIONS["brats2024-ped"], CONVENTIONS["brats2023-ped"]
        return (
            "no label of BraTS-PED holds 4, so they may be of 2023 or of later years: give "
            f"{option} as {old.describe()} or {new.describe()}"
        )
    return ""


def _whole_tumour(values: set[int], option: str, *, one_class: bool = False) -> str:
    (value,) = values
    if option.startswith("--"):  # of evaluate
        other = f", or the name of their meaning if the tool found {value} alone"
        return (
            f"the masks hold only 0 and {value}, as masks of the whole tumour alone do: give "
            f"--regions WT, or give {option} a YAML file with whole: {value}"
            f"{other if one_class else ''}"
        )
    return (
        f"the labels hold only 0 and {value}, masks of the whole tumour alone: give {option} a "
        f"YAML file with whole: {value} for the 2D study or for evaluate --regions WT; the 3D "
        "study needs three regions"
    )


def _fitting(values: set[int], convention: LabelConvention) -> list[str]:
    """One name of every known meaning that has all `values`."""
    fitting: list[LabelConvention] = []
    for known in CONVENTIONS.values():
        if values <= known.values and not any(map(known.same_meaning, [*fitting, convention])):
            fitting.append(known)
    whole = [known for known in fitting if all(values & set(known.of(kind)) for kind in CLASSES)]
    return [known.describe() for known in whole or fitting]
