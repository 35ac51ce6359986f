"""Augmentation of slices: what is missing stays missing."""

import numpy as np
import torch

from datamodules.slices.augmentation import SliceAugmentation, augment_slice


def test_a_missing_modality_stays_empty_and_others_change_inside_the_brain_only():
    image = torch.zeros(4, 16, 16)
    image[[0, 1, 3], 4:12, 4:12] = torch.randn(3, 8, 8)  # T2 is missing
    changes = SliceAugmentation(
        angle=0.0,
        flips=(False, False),
        scale=np.array([1.1, 0.9, 1.1, 1.0], np.float32),
        shift=np.array([0.1, -0.1, 0.1, 0.05], np.float32),
    )
    changed, _ = augment_slice(image, torch.zeros(1, 16, 16), changes)
    assert not changed[2].any()
    assert torch.allclose(changed[0, 4:12, 4:12], image[0, 4:12, 4:12] * 1.1 + 0.1)
    assert torch.allclose(changed[3, 4:12, 4:12], image[3, 4:12, 4:12] + 0.05)
    assert not changed[:, :4].any()
