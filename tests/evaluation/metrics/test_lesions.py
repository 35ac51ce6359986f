"""Lesion-wise scores by hand, and against the challenge's procedure over whole volumes."""

import numpy as np
import pytest
import surface_distance
from scipy import ndimage

from evaluation.metrics.lesions import lesion_scores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
UNIT = (1.0, 1.0, 1.0)


def boxes(*corners, shape=(48, 40, 36)):
    """Cubes of 4 voxels a side (64 mm3) at the given corners."""
    mask = np.zeros(shape, dtype=bool)
    for x, y, z in corners:
        mask[x : x + 4, y : y + 4, z : z + 4] = True
    return mask


def by_the_challenge(prediction, reference, spacing):
    """The published procedure, lesion by lesion over the whole volume."""
    ball = ndimage.generate_binary_structure(3, 2)
    everywhere = np.ones((3, 3, 3))
    parts, count = ndimage.label(prediction, everywhere)
    joined, lesions = ndimage.label(ndimage.binary_dilation(reference, ball, 3), everywhere)
    dices, distances, hit = [], [], set()
    for number in range(1, lesions + 1):
        lesion = (joined == number) & reference
        touched = set(parts[ndimage.binary_dilation(lesion, ball, 3)].tolist()) - {0}
        hit |= touched
        match = np.isin(parts, list(touched))
        if lesion.sum() * np.prod(spacing) <= 50:
            continue
        if not touched:
            dices.append(0.0)
            distances.append(374.0)
            continue
        dices.append(2 * (match & lesion).sum() / (match.sum() + lesion.sum()))
        surfaces = surface_distance.compute_surface_distances(lesion, match, spacing)
        distances.append(surface_distance.compute_robust_hausdorff(surfaces, 95))
    invented = count - len(hit)
    return (
        sum(dices) / (len(dices) + invented),
        (sum(distances) + 374 * invented) / (len(dices) + invented),
    )


@pytest.mark.parametrize("spacing", [UNIT, (0.9, 1.0, 2.5)])
@pytest.mark.parametrize("seed", range(3))
def test_many_ragged_lesions_as_the_challenge_scores_them(seed, spacing):
    noise = np.random.default_rng(seed).normal(size=(2, 40, 36, 30))
    reference = ndimage.gaussian_filter(noise[0], 2) > 0.11
    prediction = ndimage.gaussian_filter(0.8 * noise[0] + 0.5 * noise[1], 2) > 0.11
    expected = by_the_challenge(prediction, reference, spacing)
    assert 0.05 < expected[0] < 0.95
    assert lesion_scores(prediction, reference, spacing) == pytest.approx(expected, rel=1e-9)


def test_a_missed_and_an_invented_lesion_by_hand():
    reference = boxes((4, 4, 4), (30, 4, 4))
    prediction = boxes((4, 4, 4), (4, 30, 25))
    # one found exactly, one missed, one invented
    assert lesion_scores(prediction, reference, UNIT) == pytest.approx((1 / 3, 2 * 374 / 3))


def test_lesions_that_three_dilations_join_are_one():
    # six voxels apart: both grow by three and touch
    pair, apart = boxes((4, 4, 4), (14, 4, 4)), boxes((4, 4, 4), (16, 4, 4))
    found = boxes((4, 4, 4))
    assert lesion_scores(found, pair, UNIT)[0] == pytest.approx(2 * 64 / (64 + 128))
    assert lesion_scores(found, apart, UNIT)[0] == pytest.approx(1 / 2)


def test_a_component_near_a_lesion_belongs_to_it():
    reference = boxes((4, 4, 4))  # to voxel 7; three dilations reach voxel 10
    near, far = boxes((4, 4, 4), (10, 4, 4)), boxes((4, 4, 4), (11, 4, 4))
    assert lesion_scores(near, reference, UNIT)[0] == pytest.approx(2 * 64 / (64 + 128))
    assert lesion_scores(far, reference, UNIT)[0] == pytest.approx(1 / 2)


def test_small_lesions_of_the_reference_do_not_count_but_invented_ones_do():
    speck = np.zeros((48, 40, 36), dtype=bool)
    speck[20:25, 20:25, 20:22] = True  # 50 voxels
    assert lesion_scores(np.zeros_like(speck), speck, UNIT) == (1.0, 0.0)
    assert lesion_scores(speck, speck, UNIT) == (1.0, 0.0)
    assert lesion_scores(speck, np.zeros_like(speck), UNIT) == (0.0, 374.0)
    # the same voxels are a lesion that counts where they are larger
    assert lesion_scores(np.zeros_like(speck), speck, (1.0, 1.0, 1.1)) == (0.0, 374.0)
