"""Surface Dice and robust Hausdorff distance against surface-distance, MONAI and by hand."""

import numpy as np
import pytest
import surface_distance
import torch
from monai.metrics import compute_surface_dice

from evaluation.metrics.surface import nsd, robust_hausdorff
from tests.evaluation.metrics.test_scores import ragged

# both call names that are about to go
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.25, 5.0)]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_both_are_those_of_surface_distance_and_monai(seed, spacing):
    prediction, reference = ragged(seed)
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    for tolerance in (1.0, 2.0):
        ours = nsd(prediction, reference, spacing, tolerance=tolerance)
        expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
        assert ours == pytest.approx(expected, rel=1e-9)
    assert robust_hausdorff(prediction, reference, spacing) == pytest.approx(
        surface_distance.compute_robust_hausdorff(distances, 95), rel=1e-9
    )
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    monai = compute_surface_dice(*masks, [1.0], True, spacing=spacing, use_subvoxels=True)
    assert nsd(prediction, reference, spacing) == pytest.approx(float(monai), rel=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.0)])
def test_contours_of_a_slice_are_those_of_surface_distance(spacing):
    prediction, reference = (mask[:, :, 9] for mask in ragged(4))
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, 1.0)
    assert nsd(prediction, reference, spacing) == pytest.approx(expected, rel=1e-9)


def test_a_step_of_one_voxel_is_within_a_millimetre_also_by_a_float32_header():
    reference = np.zeros((20, 20, 20), dtype=bool)
    reference[5:12, 5:12, 5:12] = True
    near, far = np.roll(reference, 1, axis=0), np.roll(reference, 2, axis=0)
    for edge in (1.0, 1.0000001, 0.9999999):
        assert nsd(near, reference, (edge, 1.0, 1.0)) == 1.0
    # sides that the shift moves along stay where they are; the two faces across it do not
    assert 0.5 < nsd(far, reference, (1.0, 1.0, 1.0)) < 0.8
    assert nsd(far, reference, (0.5, 1.0, 1.0)) == 1.0


def test_robust_hausdorff_of_nothing_is_infinite():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert robust_hausdorff(empty, full, (1, 1, 1)) == robust_hausdorff(full, empty, (1, 1, 1))
    assert np.isinf(robust_hausdorff(empty, full, (1, 1, 1)))
