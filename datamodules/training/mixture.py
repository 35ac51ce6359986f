"""The training part of a split, made smaller or larger: fewer patients, phantoms beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from datamodules.splits import Split, ordered
from errors import InputError


def keep_first(split: Split, patients: Mapping[str, str], count: int, seed: int) -> Split:
    """Keep the first patients of the training part, in an order by the seed, and no others.

    Smaller numbers keep a subset of what larger ones keep.

    Args:
        split: The whole split.
        patients: Case id to patient id.
        count: Number of patients to train on.
        seed: Seed of the order.

    Raises:
        InputError: The training part has fewer patients.
    """
    order = ordered({patients[case_id] for case_id in split.train}, seed)
    if count > len(order):
        raise InputError(
            f"data.train_patients is {count}, and the training part of the split ({split.source}) "
            f"has {len(order)} patients: expected at most {len(order)}."
        )
    kept = set(order[:count])
    return replace(
        split,
        train=[case_id for case_id in split.train if patients[case_id] in kept],
        left_out=[case_id for case_id in split.train if patients[case_id] not in kept],
    )


def add_phantoms(split: Split, names: Sequence[str], hashes: Mapping[str, str]) -> Split:
    """Add phantoms to the training part of a split of real patients.

    Args:
        split: The split of the real patients.
        names: Case ids of the phantoms.
        hashes: Content hashes of the phantoms by case id, where they are known.
    """
    return replace(
        split,
        train=[*split.train, *names],
        patients={**split.patients, **{name: name for name in names}},
        hashes={**split.hashes, **hashes},
        phantoms=list(names),
    )
