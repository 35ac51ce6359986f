"""The check of feature maps that all fusion heads share."""

from collections.abc import Sequence

import torch

from errors import InputError


def check_features(head: str, features: Sequence[torch.Tensor], in_channels: Sequence[int]) -> None:
    """Check that feature maps (B, C_i, D, H, W) are those that a head was built for.

    Raises:
        InputError: another number of maps, other channels, or maps on different grids.
    """
    channels = tuple(one.shape[1] for one in features)
    if channels != tuple(in_channels):
        raise InputError(
            f"{head} was built for feature maps of {list(in_channels)} channels and got "
            f"{list(channels)}: give it the networks it was trained on, in the same order."
        )
    grids = {tuple(one.shape[2:]) for one in features}
    if len(grids) > 1:
        raise InputError(
            f"{head} got feature maps on different grids, {sorted(grids)}, where one was expected: "
            "every network must see the same patch."
        )
