"""Settings that a command applies to a built model: one class for training, one for its use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluation.metrics.postprocessing import Postprocessing
from evaluation.metrics.scores import BRATS, EmptyRule

TestTimeAugmentation = Literal["none", "flips"]


@dataclass(frozen=True)
class FitSettings:
    """Settings of a training for its model: see ``TrainingModule.configure_for_fit``.

    Args:
        patch_size: voxels of a training patch along every axis; inference repeats it exactly.
        seed: seed of the randomness within a step.
        augmented: whether training images change from epoch to epoch.
        gradient_clip_val: largest norm of the gradients, for a module that steps its own
            optimisers; None: no limit.
        compiler: backend of torch.compile for the networks of a step; None: they are not compiled.
        max_steps: optimiser steps, over all optimisers, after which the training ends; None: no
            limit.
        prevalence: returns the share of every region in the training patches; None: unknown.
        card: entries of the card, which every checkpoint of the training carries.
    """

    patch_size: tuple[int, ...]
    seed: int = 0
    augmented: bool = True
    gradient_clip_val: float | None = None
    compiler: str | None = None
    max_steps: int | None = None
    prevalence: Callable[[], Sequence[float]] | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UseSettings:
    """Use of a trained model in test and predict: see ``SegmentationModule.configure_for_use``.

    Args:
        postprocessing: rules on the label maps of test and predict; None: none.
        empty_rule: scores of empty regions in test; validation always uses BraTS's.
        tta: ``flips`` averages the probabilities over the flips of the axes.
        shows_maps: whether predict also returns the network's maps.
    """

    postprocessing: Postprocessing | None = None
    empty_rule: EmptyRule = BRATS
    tta: TestTimeAugmentation = "none"
    shows_maps: bool = False
