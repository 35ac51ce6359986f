"""Pieces of the phantom: each does something, alone, and nothing to the others."""

import numpy as np
import pytest

from datamodules.phantom.anatomy import brain_grid, draw_anatomy, draw_pose
from datamodules.phantom.lesion import MORE_WITHOUT_ENHANCEMENT, WITHOUT_ENHANCEMENT, plan_lesion
from datamodules.phantom.simulation import enhances, generate_cohort, generate_patient
from datamodules.phantom.variety import (
    DARK_EDGE,
    MODALITIES,
    PIECES,
    Pieces,
    check_pieces,
    edge_factor,
    log_contrast,
    log_shading,
    mature,
    noise_factors,
)
from errors import InputError

COARSE = 5.0  # mm
LATE = ("regions", "grey_contrast", "bright_white", "waves", "dark_edge", "shading", "low_noise")
PLANNED = ("partial_rim", "small_core", "pale_core", "faint", "sites")
GRID = brain_grid(COARSE)


@pytest.fixture(scope="module")
def brain():
    pose = draw_pose(np.random.default_rng(0))
    return draw_anatomy(np.random.default_rng(1), GRID, pose, None)


def others(piece):
    return [name for name in PIECES if name != piece]


@pytest.mark.parametrize("piece", LATE)
def test_a_piece_of_contrast_or_scanner_changes_images_and_no_label(piece):
    for index in range(8):  # some pieces are for a share of the patients
        plain = generate_patient(0, index, COARSE)
        changed = generate_patient(0, index, COARSE, [piece])
        np.testing.assert_array_equal(plain.label, changed.label)
        if any(not np.array_equal(plain.images[m], changed.images[m]) for m in MODALITIES):
            return
    raise AssertionError(f"{piece} changed nothing in eight patients")


@pytest.mark.parametrize("piece", PLANNED)
def test_a_piece_of_the_lesion_is_for_some_patients_and_leaves_their_other_draws(piece):
    poses = [draw_pose(np.random.default_rng([5, i])) for i in range(120)]
    changed = 0
    for index, pose in enumerate(poses):
        plain, varied = (
            plan_lesion(np.random.default_rng([6, index]), pose, True, Pieces(7, index, taken))
            for taken in ((), [piece])
        )
        assert plain.pressure == varied.pressure
        assert plain.fluid_core == varied.fluid_core
        same = (plain.core_ml, plain.rim_mm, plain.rim_share, plain.pale, plain.faintness)
        now = (varied.core_ml, varied.rim_mm, varied.rim_share, varied.pale, varied.faintness)
        changed += same != now or len(plain.foci) != len(varied.foci)
    assert 5 <= changed <= 60


def test_a_piece_changes_no_draw_of_another():
    for index in range(5):
        alone = Pieces(3, index, ["waves"]).stream("waves")
        among = Pieces(3, index, PIECES).stream("waves")
        assert alone is not None
        assert among is not None
        assert alone.random() == among.random()
        assert Pieces(3, index, others("waves")).stream("waves") is None


def test_fractions_of_tissue_stay_fractions_and_move_as_they_are_meant_to(brain):
    pieces = Pieces(0, 0, PIECES)
    moved = mature(pieces, brain)
    total = moved.white + moved.grey + moved.fluid
    np.testing.assert_allclose(total[brain.mask], 1, atol=1e-4)
    assert min(moved.white.min(), moved.grey.min(), moved.fluid.min()) >= 0
    surface = brain.mask & (brain.depth < 4)
    assert moved.fluid[surface].mean() < brain.fluid[surface].mean()
    assert moved.white.sum() > brain.white.sum()  # out of deep grey matter
    assert mature(Pieces(0, 0), brain).fluid is brain.fluid


def test_signals_differ_between_regions_by_what_is_documented(brain):
    x, y, z = brain.mni
    cerebellum = brain.mask & (z < -30) & (y < -55) & (np.abs(x) > 12)
    cerebrum = brain.mask & (z > 30)
    gaps = np.array(
        [
            [change[m][cerebellum].mean() - change[m][cerebrum].mean() for m in MODALITIES]
            for change in (
                log_contrast(Pieces(0, index, ["regions"]), brain, GRID) for index in range(150)
            )
        ]
    )
    np.testing.assert_allclose(gaps.std(0), 0.14, atol=0.04)
    assert gaps[:, 1].mean() < -0.04  # T1ce: darker on average
    assert 0.3 < np.corrcoef(gaps.T)[0, 3] < 0.9  # modalities share part of it


def test_shading_falls_off_from_the_centre_and_leans():
    fields = [log_shading(Pieces(0, i, PIECES), GRID)["t1"] for i in range(60)]
    flat = [field for field in fields if field.size == 1]
    assert 3 <= len(flat) <= 25  # a fifth of the patients have none
    edges = np.array([[f[0].mean(), f[-1].mean(), f[GRID.shape[0] // 2].mean()]
                      for f in fields if f.size > 1])  # fmt: skip
    assert (edges[:, :2].mean(1) < edges[:, 2]).mean() > 0.9


def test_edge_is_dark_and_the_inside_is_not(brain):
    factor = edge_factor(Pieces(0, 1, PIECES), brain)
    assert 1 - DARK_EDGE <= factor.min() < 1
    np.testing.assert_allclose(factor[brain.depth > 10], 1, atol=1e-4)


def test_most_images_have_less_noise():
    factors = [value for i in range(60) for value in noise_factors(Pieces(0, i, PIECES)).values()]
    assert 0.6 < np.mean(np.array(factors) < 1) < 0.8
    assert set(noise_factors(Pieces(0, 0)).values()) == {1.0}


def test_partial_rim_leaves_a_part_of_the_enhancement():
    volumes = []
    for index in range(40):
        patients = [
            generate_patient(1, index, COARSE, taken)
            for taken in (["partial_rim"], [])
        ] if enhances(1, index) else []  # fmt: skip
        if patients and not np.array_equal(patients[0].label, patients[1].label):
            volumes.append([(p.label == 3).sum() for p in patients])
            assert (patients[0].label > 0).sum() == (patients[1].label > 0).sum()
        if len(volumes) == 4:
            break
    partial, whole = np.array(volumes).sum(0)
    assert 0 < partial < 0.6 * whole


def test_share_without_enhancement():
    for taken, share in (((), WITHOUT_ENHANCEMENT), (("non_enhancing",), MORE_WITHOUT_ENHANCEMENT)):
        found = np.mean([not enhances(0, index, taken) for index in range(3000)])
        assert found == pytest.approx(share, abs=0.03)


def test_unknown_piece_is_refused_and_a_cohort_with_one_is_another(tmp_path):
    with pytest.raises(InputError, match=r"no piece 'tentacles': choose among deep_grey"):
        check_pieces(["tentacles"])
    generate_cohort(tmp_path / "c", 1, spacing=COARSE, progress=False, taken=("waves",))
    with pytest.raises(InputError, match="name a folder that is new"):
        generate_cohort(tmp_path / "c", 1, spacing=COARSE, progress=False)
