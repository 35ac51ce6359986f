"""The z-scores of networks that were trained elsewhere, against MONAI and nnU-Net's formula."""

import numpy as np
import pytest
from monai.transforms import NormalizeIntensity

from datamodules.cases.cache import prepare_cases
from datamodules.cases.intensity import identified, named, normalise, scored_voxels
from datamodules.cases.settings import Preparation
from datamodules.patients.find import find_cases
from tests.datamodules.tiny_patients import make_volumes


@pytest.fixture
def images():
    """Four volumes (4, *S) with zeros inside the brain, and one hole that no modality fills."""
    volumes, _ = make_volumes(5)
    image = np.stack(list(volumes.values()))
    image[0, 10:13, 12:16, 9:11] = 0  # in one modality alone
    image[:, 8, 14, 10] = 0  # in all of them, enclosed by brain
    image[3, 13, 15, 11] = 4000  # an outlier, which clipping would hide
    return image


def test_nonzero_is_what_monais_brats_bundle_does(images):
    theirs = NormalizeIntensity(nonzero=True, channel_wise=True)(images.astype(np.float32))
    brain = (images != 0).any(0)
    ours = np.stack([normalise(one, brain, "nonzero") for one in images])
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3, rtol=6e-4)  # float16
    assert ours[3].max() > 10
    assert (ours[0, 10:13, 12:16, 9:11] == 0).all()


def test_brain_is_nnunets_z_score_under_its_mask(images):
    mask = (images != 0).any(0)
    mask[8, 14, 10] = True  # nnU-Net fills holes
    theirs = np.zeros(images.shape)
    for one, out in zip(images.astype(np.float64), theirs, strict=True):
        out[mask] = (one[mask] - one[mask].mean()) / max(one[mask].std(), 1e-8)
    voxels = scored_voxels((images != 0).any(0), "brain")
    np.testing.assert_array_equal(voxels, mask)
    ours = np.stack([normalise(one, voxels, "brain") for one in images])
    np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=6e-4)
    assert (ours[0, 10:13, 12:16, 9:11] < -3).all()


def test_where_no_modality_is_zero_inside_the_brain_both_are_the_same():
    volumes, _ = make_volumes(5)
    brain = volumes["t1"] != 0
    for one in volumes.values():
        np.testing.assert_array_equal(
            normalise(one, brain, "nonzero"), normalise(one, brain, "brain")
        )


def test_each_normalisation_has_prepared_cases_of_its_own(tmp_path, write_case):
    write_case(tmp_path / "data", 3)
    found = find_cases(tmp_path / "data")

    def prepare(kind):
        wanted = Preparation(1.0, normalisation=kind)
        return prepare_cases(found, tmp_path / "cache", wanted, progress=False)[0]

    cases = {kind: prepare(kind) for kind in ("clipped", "brain", "nonzero")}
    assert len({case.folder for case in cases.values()}) == 3
    assert prepare("brain").folder == cases["brain"].folder
    volumes, _ = make_volumes(3)
    brain = cases["brain"].geometry.crop(volumes["t2"] != 0)
    raw = cases["brain"].geometry.crop(volumes["t2"]).astype(float)
    expected = np.where(brain, (raw - raw[brain].mean()) / raw[brain].std(), 0)
    np.testing.assert_allclose(cases["brain"].image[2], expected, atol=2e-3)
    assert not np.array_equal(cases["brain"].image[2], cases["clipped"].image[2])


def test_the_default_keeps_its_number_in_identities():
    assert (identified("clipped"), identified("brain")) == (1, "brain")
    assert [named(1), named("nonzero"), named(None)] == ["clipped", "nonzero", "None"]
