"""Pieces of the phantom: each does something, alone, and nothing to the others."""

import json

import numpy as np
import pytest

from datamodules.layouts.case_files import MODALITIES
from datamodules.phantom.anatomy import brain_grid, draw_anatomy, draw_pose
from datamodules.phantom.lesion import FAR_FOCI, INFRATENTORIAL, plan_lesion
from datamodules.phantom.simulation import generate_cohort, generate_patient
from datamodules.phantom.variety import (
    PIECES,
    Pieces,
    check_pieces,
    log_bright_white,
    log_shading,
    noise_factors,
)
from errors import InputError

COARSE = 5.0  # mm
GRID = brain_grid(COARSE)


@pytest.fixture(scope="module")
def brain():
    pose = draw_pose(np.random.default_rng(0))
    return draw_anatomy(np.random.default_rng(1), GRID, pose, None)


def others(piece):
    return [name for name in PIECES if name != piece]


@pytest.mark.parametrize("piece", ["bright_white", "shading", "low_noise", "vessels"])
def test_a_piece_changes_images_and_no_label(piece):
    for index in range(8):  # some pieces are for a share of the patients
        plain = generate_patient(0, index, COARSE, others(piece))
        changed = generate_patient(0, index, COARSE)
        np.testing.assert_array_equal(plain.label, changed.label)
        if any(not np.array_equal(plain.images[m], changed.images[m]) for m in MODALITIES):
            return
    raise AssertionError(f"{piece} changed nothing in eight patients")


def test_some_lesions_have_another_site_and_keep_their_other_draws():
    moved = below = 0
    for index in range(300):
        pose = draw_pose(np.random.default_rng([5, index]))
        plain, varied = (
            plan_lesion(np.random.default_rng([6, index]), pose, True, Pieces(7, index, taken))
            for taken in (others("sites"), PIECES)
        )
        assert plain.pressure == varied.pressure
        assert plain.fluid_core == varied.fluid_core
        assert plain.rim_mm == varied.rim_mm
        moved += len(varied.foci) > len(plain.foci)
        below += varied.whole_ml < plain.whole_ml
    assert below / 300 == pytest.approx(INFRATENTORIAL, abs=0.04)
    assert moved / 300 == pytest.approx(FAR_FOCI * (1 - INFRATENTORIAL), abs=0.06)


def test_a_piece_changes_no_draw_of_another():
    for index in range(5):
        alone = Pieces(3, index, ["shading"]).stream("shading")
        among = Pieces(3, index).stream("shading")
        assert alone is not None
        assert among is not None
        assert alone.random() == among.random()
        assert Pieces(3, index, others("shading")).stream("shading") is None


def test_white_matter_is_never_darker_on_flair_and_brightest_there(brain):
    changes = [log_bright_white(Pieces(0, index), brain, GRID) for index in range(40)]
    means = np.array([[change[m][brain.white > 0.8].mean() for m in MODALITIES]
                      for change in changes if change["flair"].any()])  # fmt: skip
    assert 15 <= len(means) <= 35  # where the change would be negative there is none
    assert (means[:, 3] > means[:, 2]).all()
    assert (means[:, 2] > 0).all()
    assert (means[:, 0] < 0).all()


def test_shading_falls_off_from_the_centre_and_leans():
    fields = [log_shading(Pieces(0, i), GRID)["t1"] for i in range(60)]
    flat = [field for field in fields if field.size == 1]
    assert 3 <= len(flat) <= 25  # a fifth of the patients have none
    edges = np.array([[f[0].mean(), f[-1].mean(), f[GRID.shape[0] // 2].mean()]
                      for f in fields if f.size > 1])  # fmt: skip
    assert (edges[:, :2].mean(1) < edges[:, 2]).mean() > 0.9


def test_most_images_have_less_noise():
    factors = [value for i in range(60) for value in noise_factors(Pieces(0, i)).values()]
    assert 0.6 < np.mean(np.array(factors) < 1) < 0.8
    assert set(noise_factors(Pieces(0, 0, ())).values()) == {1.0}


def test_unknown_piece_is_refused_and_a_cohort_without_one_is_another(tmp_path):
    with pytest.raises(InputError, match=r"no piece 'tentacles': choose among bright_white"):
        check_pieces(["tentacles"])
    few = others("sites")
    generate_cohort(tmp_path / "c", 1, spacing=COARSE, progress=False, taken=few)
    assert json.loads((tmp_path / "c" / "phantom.json").read_text())["pieces"] == few
    with pytest.raises(InputError, match="name a folder that is new"):
        generate_cohort(tmp_path / "c", 1, spacing=COARSE, progress=False)
