"""Modalities dropped at random in training."""

import numpy as np
import pytest
import torch

from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from datamodules.training.modality_dropout import draw_dropped
from errors import InputError
from tests.datamodules.deliveries import delivered

KINDS = [BraTSPatchDataModule, RegisteredSliceDataModule]


@pytest.fixture
def module(cohort, tmp_path):
    """`module(kind, **changes)`: a data module on the six tiny cases."""

    def make(kind, **changes):
        size = {"slice_size": 32} if kind is RegisteredSliceDataModule else {"patch_size": [16] * 3}
        options = {"num_workers": 0, **size, **changes}
        data = kind(root=str(cohort), cache_dir=str(tmp_path / "c"), **options)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def images(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([batch["image"] for batch in delivered(data, loader)])


@pytest.mark.parametrize("usable", [[0, 1, 2, 3], [0, 2], [3]])
def test_each_falls_as_often_as_stated_and_one_always_stays(usable):
    rng, probability, n = np.random.default_rng(0), 0.5, 8000
    kept = np.zeros(4)
    for _ in range(n):
        fallen = draw_dropped(probability, usable, rng)
        assert set(fallen) < set(usable)
        kept[[one for one in usable if one not in fallen]] += 1
    # It stays by itself, or is the one that is chosen where all would fall.
    expected = 1 - probability + probability ** len(usable) / len(usable)
    assert kept[usable] / n == pytest.approx([expected] * len(usable), abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_whole_or_blank_by_modality(kind, module):
    whole = images(module(kind))
    data = module(kind, modality_dropout=0.6, num_workers=2)
    found = images(data)
    blank = ~found.flatten(2).any(2)  # (samples, 4)
    assert blank.any()
    assert not blank.all(1).any()
    assert torch.equal(found, torch.where(blank[(..., *[None] * (found.ndim - 2))], 0, whole))
    assert torch.equal(found, images(module(kind, modality_dropout=0.6)))
    again = ~images(data, epoch=1).flatten(2).any(2)
    assert not torch.equal(blank, again)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dropped_in_every_patient_does_not_count_as_kept(kind, module):
    found = images(module(kind, modality_dropout=0.95, drop=["t1", "t2"]))
    shown = found.flatten(2).any(2)
    assert not shown[:, [0, 2]].any()
    assert shown[:, [1, 3]].any(1).all()
    assert not shown[:, [1, 3]].all()


@pytest.mark.parametrize("kind", KINDS)
def test_validation_and_test_see_all_modalities(kind, module):
    data = module(kind, modality_dropout=0.95)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            image = batch["image"][0]
            axis = image.ndim - (4 if kind is BraTSPatchDataModule else 3)
            assert image.movedim(axis, 0).flatten(1).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_identity_names_it_only_where_it_is_used(kind, module):
    plain = module(kind).identity()
    assert module(kind, modality_dropout=0.0).identity() == plain
    assert "modality_dropout" not in plain
    dropped = module(kind, modality_dropout=0.25).identity()
    assert dropped == {**plain, "modality_dropout": 0.25}
    assert module(kind, augmentation="randomised").identity() == {
        **plain,
        "augmentation": "randomised",
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("probability", "message"),
    [
        (1, "is 1, the dropout of all modalities: expected from 0 to below 1, such as 0.2"),
        (1.5, "is 1.5: expected a probability from 0 to below 1"),
        (-0.1, "is -0.1: expected a probability"),
        (float("nan"), "is nan: expected a probability"),
    ],
)
def test_what_is_no_probability_is_refused(kind, probability, message, tmp_path):
    with pytest.raises(InputError, match=message):
        kind(modality_dropout=probability, cache_dir=str(tmp_path))
