"""Modalities dropped from every patient: blank where a network looks, named where it matters."""

import numpy as np
import pytest
import torch

from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from errors import InputError


@pytest.fixture
def module(cohort, tmp_path):
    """`module(kind, **changes)`: a data module on the six tiny cases."""

    def make(kind, **changes):
        size = {"slice_size": 32} if kind is RegisteredSliceDataModule else {"patch_size": [16] * 3}
        data = kind(
            root=str(cohort), num_workers=0, cache_dir=str(tmp_path / "c"), **size, **changes
        )
        data.prepare_data()
        data.setup("fit")
        return data

    return make


KINDS = [BraTSPatchDataModule, RegisteredSliceDataModule]


@pytest.mark.parametrize("kind", KINDS)
def test_the_dropped_are_blank_and_the_others_untouched(kind, module):
    whole, dropped = module(kind), module(kind, drop=["t2", "t1"])
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        one, other = (next(iter(getattr(data, loader)())) for data in (whole, dropped))
        one, other = one["image"], other["image"]
        axis = one.ndim - (4 if kind is BraTSPatchDataModule else 3)
        for index, blank in enumerate([True, False, True, False]):
            expected = one.select(axis, index)
            found = other.select(axis, index)
            assert torch.equal(found, torch.zeros_like(found) if blank else expected)
            assert expected.any()
    case = next(iter(dropped.cases.values()))
    assert [bool(np.asarray(image).any()) for image in case.image] == [False, True, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_identity_names_it_only_where_it_is_used(kind, module):
    whole, dropped = module(kind), module(kind, drop=["t2", "t1"])
    assert "drop" not in whole.identity()
    assert dropped.identity() == {**whole.identity(), "drop": ["t1", "t2"]}  # in their own order
    assert whole.fingerprint() == dropped.fingerprint()  # the patients stay the same
    assert whole.case_hashes() == dropped.case_hashes()
    assert any("t1, t2" in notice and "background" in notice for notice in dropped.notices)


def test_an_embedding_of_a_blanked_slice_has_a_name_of_its_own(module):
    whole = module(RegisteredSliceDataModule)
    dropped = module(RegisteredSliceDataModule, drop=["flair"])
    one, other = (next(iter(data.cases.values())) for data in (whole, dropped))
    assert one.slice_key(3) != other.slice_key(3)
    assert one.slice_hash(3) == other.slice_hash(3) == one.slice_key(3)


@pytest.mark.parametrize("drop", [["T1"], ["t1", "t1ce", "t2", "flair"]])
def test_what_cannot_be_dropped(drop, module):
    with pytest.raises(InputError, match=r"data\.drop .*: expected some of t1, t1ce, t2, flair"):
        module(BraTSPatchDataModule, drop=drop)
