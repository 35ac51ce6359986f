"""Overlap, HD95 and their sums: by hand, an independent implementation, MONAI, two processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from evaluation.metrics.scores import (
    METRICS,
    SLICE_METRICS,
    RegionDice,
    SliceDice,
    dice,
    hd95,
    is_metric,
    lesion_scores,
    nsd,
    precision,
    score_case,
    score_slices,
    sensitivity,
    slice_rule,
    volume_error_ml,
)


def ball(shape, centre, radius):
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2


def ragged(seed, shape=(31, 27, 22)):
    """Two irregular overlapping masks, one of them on the image border."""
    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    smooth = [ndimage.gaussian_filter(field, 2) for field in noise]
    return smooth[0] > 0.05, smooth[1] + 0.3 * smooth[0] > 0.06


def surface_distances(first, second, spacing):
    """Distances of one surface to another by erosion and distance transform (not the KD tree)."""
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    return ndimage.distance_transform_edt(~surfaces[1], sampling=spacing)[surfaces[0]]


def test_dice_by_hand():
    prediction = np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
    reference = np.array([[1, 0, 0], [1, 1, 1]], dtype=bool)
    assert dice(prediction, reference) == pytest.approx(4 / 7)
    assert dice(torch.from_numpy(prediction), torch.from_numpy(reference)) == pytest.approx(4 / 7)


def test_sensitivity_precision_and_volume_by_hand():
    prediction = np.array([[[1, 1, 0], [1, 0, 0]]], dtype=bool)
    reference = np.array([[[1, 0, 0], [1, 1, 1]]], dtype=bool)
    assert sensitivity(prediction, reference) == pytest.approx(2 / 4)
    assert precision(prediction, reference) == pytest.approx(2 / 3)
    assert volume_error_ml(prediction, reference, (2.0, 5.0, 100.0)) == pytest.approx(-1.0)
    assert volume_error_ml(reference, prediction, (2.0, 5.0, 100.0)) == pytest.approx(1.0)


def test_hd95_of_shifted_cube_is_the_shift_in_mm():
    reference = np.zeros((20, 20, 20), dtype=bool)
    reference[5:10, 5:10, 5:10] = True
    prediction = np.roll(reference, 3, axis=2)
    assert hd95(prediction, reference, (1.0, 1.0, 1.0)) == pytest.approx(3.0)
    assert hd95(prediction, reference, (1.0, 1.0, 2.5)) == pytest.approx(7.5)
    assert hd95(prediction, reference, (4.0, 1.0, 1.0)) == pytest.approx(3.0)


def test_hd95_takes_the_percentile_of_each_direction():
    """19 voxels at 0 mm, one 10 mm away: linear percentile 95 of one direction is 0.5 mm."""
    reference = np.zeros((40, 5), dtype=bool)
    reference[:19, 2] = True
    prediction = reference.copy()
    prediction[28, 2] = True
    expected = np.percentile([0.0] * 19 + [10.0], 95)
    assert hd95(prediction, reference, (1.0, 1.0)) == pytest.approx(expected) == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.25, 5.0)])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_is_monais_and_agrees_with_distance_transforms(seed, spacing):
    prediction, reference = ragged(seed)
    ours = hd95(prediction, reference, spacing)
    directed = [
        np.percentile(surface_distances(*pair, spacing), 95)
        for pair in ((prediction, reference), (reference, prediction))
    ]
    assert ours == pytest.approx(max(directed), rel=1e-9)
    monai = compute_hausdorff_distance(
        prediction[None, None],
        reference[None, None],
        include_background=True,
        percentile=95,
        spacing=spacing,
    )
    assert ours == pytest.approx(float(monai), rel=1e-5)


def test_hd95_depends_on_nothing_outside_the_tumour():
    prediction, reference = ragged(7)
    padding = ((11, 3), (0, 25), (6, 6))
    interior = [np.pad(mask, 1) for mask in (prediction, reference)]
    far = [np.pad(mask, padding) for mask in interior]
    spacing = (1.0, 0.9, 2.0)
    assert hd95(*interior, spacing) == hd95(*far, spacing) == hd95(prediction, reference, spacing)


def test_masks_that_would_be_counted_wrongly_are_refused():
    mask = np.ones((3, 4), dtype=bool)
    with pytest.raises(ValueError, match="differ"):
        dice(mask, mask[:1])
    with pytest.raises(ValueError, match="boolean"):
        dice(mask.astype(np.float32), mask)
    with pytest.raises(ValueError, match="spacing"):
        hd95(mask, mask, (1.0, 1.0, 1.0))


def test_score_case_names_every_region_and_metric():
    shape = (24, 24, 24)
    reference = np.stack([ball(shape, (12, 12, 12), r) for r in (9, 6, 0)])
    reference[2] = False
    prediction = np.roll(reference, 2, axis=1)
    spacing = (1.0, 1.0, 3.0)
    scores = score_case(prediction, reference, spacing)
    columns = [f"{metric}/{region}" for metric in METRICS for region in ("WT", "TC", "ET")]
    assert list(scores) == [*columns, "empty_rule"]
    assert all(map(is_metric, columns))
    assert not is_metric("volume_ml/WT")
    assert scores["empty_rule"] == "brats"
    # each is what its own function says of the whole volume
    pair = (prediction[0], reference[0])
    expected = (
        dice(*pair),
        hd95(*pair, spacing),
        nsd(*pair, spacing),
        sensitivity(*pair),
        precision(*pair),
        volume_error_ml(*pair, spacing),
        *lesion_scores(*pair, spacing),
    )
    assert [scores[f"{metric}/WT"] for metric in METRICS] == pytest.approx(list(expected))
    assert (scores["dice/ET"], scores["hd95/ET"], scores["lesion_dice/ET"]) == (1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="zip"):
        score_case(prediction[:2], reference[:2], spacing)


def test_slices_are_averaged_and_an_empty_one_costs_its_diagonal():
    reference = np.zeros((3, 8, 6), dtype=bool)
    reference[:2, 2:5, 2:5] = True
    prediction = reference.copy()
    prediction[1] = False
    scores = score_slices(prediction, reference, (1.0, 1.0), slice_rule(10.0))
    assert tuple(scores) == SLICE_METRICS
    assert scores["dice"] == scores["nsd"] == scores["precision"] == pytest.approx(2 / 3)
    assert scores["hd95"] == pytest.approx(10 / 3)


def sample(index):
    """One patient as a batch of one; the third has no enhancing tumour and invents none."""
    generator = torch.Generator().manual_seed(index)
    prediction, reference = torch.rand(2, 1, 3, 6, 6, 6, generator=generator) > 0.6
    if index == 2:
        prediction[:, 2], reference[:, 2] = False, False
    return prediction, reference, [f"case-{index}-ä"]


def expected_cases(count):
    cases = {}
    for index in range(count):
        prediction, reference, (name,) = sample(index)
        pairs = zip(("WT", "TC", "ET"), prediction[0], reference[0], strict=True)
        cases[name] = {
            region: 2 * float((p & r).sum()) / float(p.sum() + r.sum()) if (p | r).any() else 1.0
            for region, p, r in pairs
        }
    return cases


def check_metric(metric, count):
    cases = expected_cases(count)
    means = {r: np.mean([case[r] for case in cases.values()]) for r in ("WT", "TC", "ET")}
    means["mean"] = np.mean(list(means.values()))
    assert metric.compute() == pytest.approx(means, abs=1e-6)
    per_case = metric.per_case()
    assert list(per_case) == sorted(cases)
    for name, scores in cases.items():
        assert per_case[name] == pytest.approx(scores, abs=1e-6)


def test_region_dice_counts_a_repeated_patient_once_and_resets():
    metric = RegionDice()
    for index in (1, 0, 2, 0):
        metric.update(*sample(index))
    check_metric(metric, 3)
    metric.reset()
    metric.update(*sample(0))
    check_metric(metric, 1)


# Patients of both processes, and how many there are.
SHARES = {
    "the sampler repeats one of five": (((0, 2, 4), (1, 3, 0)), 5),
    "unequal shares": (((0, 2), (1,)), 3),
    "a process without patients": (((0, 1), ()), 2),
}


def score_in_one_of_two_processes(rank, rendezvous):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    try:
        for shares, count in SHARES.values():
            metric = RegionDice()
            for index in shares[rank]:
                metric.update(*sample(index))
            check_metric(metric, count)
            check_metric(metric, count)  # gathering leaves the process's own state as it was
            assert len(metric.rows) == len(shares[rank])
    finally:
        dist.destroy_process_group()


def test_region_dice_of_two_processes(tmp_path):
    """Every sharing of SHARES in the same two processes: they start only once."""
    mp.spawn(score_in_one_of_two_processes, (str(tmp_path / "rendezvous"),), nprocs=2)


def test_slice_dice_averages_within_a_patient_first():
    metric = SliceDice(("WT",))
    full, half = torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    # Dice 1, 2/3 and, both empty, 1 for the first patient; 0 for the second
    metric.update(
        torch.stack([full, half, full & ~full]), torch.stack([full, full, full & ~full]), "a"
    )
    metric.update(torch.stack([half & ~half]), torch.stack([full]), "b")
    assert metric.per_case() == {
        "a": {"WT": pytest.approx((1 + 2 / 3 + 1) / 3)},
        "b": {"WT": 0.0},
    }
    assert metric.compute()["mean"] == pytest.approx((1 + 2 / 3 + 1) / 6)
    with pytest.raises(ValueError, match="no slice"):
        metric.update(torch.zeros(0, 1, 4, 4, dtype=torch.bool), torch.zeros(0, 1, 4, 4), "c")
