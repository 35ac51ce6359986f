"""Augmentation of slices: what is missing stays missing."""

import numpy as np
import torch

from datamodules.slices.augmentation import SliceAugmentation, augment_slice


def test_a_turned_brain_has_no_rim():
    """Background that bled into dark tissue at the edge would be grey to a base of black ground."""
    image = torch.zeros(4, 32, 32, dtype=torch.float16)
    image[:3, 8:24, 6:26] = -2.0  # FLAIR is missing
    nothing = np.zeros(4, np.float32)
    changes = SliceAugmentation(0.2, (False, False), scale=nothing + 1, shift=nothing)
    turned, _ = augment_slice(image, torch.zeros(32, 32, dtype=torch.uint8), changes)
    assert not turned[3].any()
    assert set(turned[:3].unique().tolist()) == {-2.0, 0.0}
    assert 300 < (turned[0] != 0).sum() < 340  # of 320 pixels


def test_a_missing_modality_stays_empty_and_others_change_inside_the_brain_only():
    image = torch.zeros(4, 16, 16, dtype=torch.float16)
    image[[0, 1, 3], 4:12, 4:12] = torch.randn(3, 8, 8).half()  # T2 is missing
    changes = SliceAugmentation(
        angle=0.0,
        flips=(False, False),
        scale=np.array([1.1, 0.9, 1.1, 1.0], np.float32),
        shift=np.array([0.1, -0.1, 0.1, 0.05], np.float32),
    )
    changed, _ = augment_slice(image, torch.zeros(16, 16, dtype=torch.uint8), changes)
    assert not changed[2].any()
    before, rounded = image.float()[:, 4:12, 4:12], {"rtol": 5e-4, "atol": 1e-6}
    found = changed.float()[:, 4:12, 4:12]
    torch.testing.assert_close(found[0], before[0] * 1.1 + 0.1, **rounded)
    torch.testing.assert_close(found[3], before[3] + 0.05, **rounded)
    assert not changed[:, :4].any()
