"""Logits of the regions WT, TC and ET out of those of classes that exclude one another."""

from collections.abc import Sequence

import torch


def region_logits(class_logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of WT, TC and ET whose probabilities are sums of a softmax over classes.

    Exact, without a detour over probabilities: log p / (1 - p) is a difference of two logsumexp.

    Args:
        class_logits: (B, 4, *S): background, necrosis, oedema, enhancing.

    Returns:
        (B, 3, *S), float32.
    """
    background, necrosis, oedema, enhancing = class_logits.float().unbind(dim=1)
    core = torch.logaddexp(necrosis, enhancing)
    rest = torch.logaddexp(background, oedema)
    whole = torch.logaddexp(core, oedema) - background
    other = torch.logaddexp(rest, necrosis)
    return torch.stack([whole, core - rest, enhancing - other], dim=1)


def merge_classes(class_logits: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits of unions of classes (B, len(groups), *S), float32, under one softmax.

    Args:
        class_logits: (B, K, *S).
        groups: channels of each union; every channel is in one of them.
    """
    logits = class_logits.float()
    return torch.stack([logits[:, list(one)].logsumexp(dim=1) for one in groups], dim=1)
