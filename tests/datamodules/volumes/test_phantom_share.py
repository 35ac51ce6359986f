"""Patients mixed with phantoms: which patch is of which, who is validated, what is recorded."""

import json

import pytest

from datamodules import BraTSPatchDataModule, RegisteredSliceDataModule
from datamodules.splits import evaluation_split
from datamodules.volumes.dataset import PatchDataset
from errors import InputError
from studies.runs.exposure import Exposure

PHANTOMS = {"phantom_patients": 2, "phantom_spacing": 5.0}
NAMES = [f"phantom-0-000{number}" for number in range(1, 3)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache, so that the phantoms are generated once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def module(cohort, cache):
    """`module(**changes)`: the six tiny cases, mixed with two phantoms."""

    def make(**changes):
        options = {"root": str(cohort), "cache_dir": str(cache), "patch_size": [16, 16, 16]}
        options |= {"num_workers": 0, "spacing": 5.0, "phantoms": 0.5, "batch_size": 2, **PHANTOMS}
        return BraTSPatchDataModule(**{**options, **changes})

    return make


@pytest.fixture
def fitted(module):
    def make(**changes):
        data = module(**changes)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def drawn(real, phantoms, share, patches=8, epochs=3):
    """Return the drawn cases of all epochs; letters stand for cases."""
    data = PatchDataset(real, [8, 8, 8], patches, 0, True, phantoms=phantoms, share=share)
    return [data.case_of(item) for item in range(epochs * patches)]


def ids_of(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [batch["case_id"] for batch in loader]


def test_half_and_half_is_one_of_each_in_every_batch_of_two(fitted):
    data = fitted(patches_per_epoch=8)
    for epoch in (0, 5):
        for one, other in ids_of(data, epoch):
            assert one.startswith("BraTS2021")
            assert other in NAMES
    assert ids_of(data) == ids_of(fitted(patches_per_epoch=8, num_workers=1))
    assert ids_of(data) != ids_of(data, epoch=1)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.29, 0.5, 0.7, 1.0])
def test_the_share_is_exact_over_all_epochs(share):
    count, epochs = 10, 10
    found = drawn(["a", "b", "c"], ["P", "Q"], share, count, epochs)
    for first in range(1, 101):
        phantoms = sum(one in "PQ" for one in found[:first])
        assert 0 <= round(share * first - phantoms, 9) < 1
    assert sum(one in "PQ" for one in found) == round(share * 100)


def test_either_kind_comes_in_turn_before_one_of_it_comes_again():
    found = drawn(list("abcde"), list("PQRST"), 0.5, 4, 5)
    for kind in ("abcde", "PQRST"):
        order = [one for one in found if one in kind]
        assert sorted(order[:5]) == sorted(order[5:]) == list(kind)
    assert found != [*list("aPbQcRdSeT")] * 2


def test_without_phantoms_nothing_changes(module, fitted):
    for unused in (None, 0):
        data = fitted(phantoms=unused, patches_per_epoch=8)
        assert "phantoms" not in data.identity()
        assert set(data.split.to_dict()) == set(fitted(phantoms=None).split.to_dict())
    assert {"left_out", "phantoms"}.isdisjoint(data.split.to_dict())


def test_phantoms_are_trained_on_alone_and_named_in_identity_and_split(fitted):
    data, plain = fitted(), fitted(phantoms=None)
    split = data.split
    assert split.train == [*plain.split.train, *NAMES]
    assert (split.val, split.test) == (plain.split.val, plain.split.test)
    assert data.fingerprint() == plain.fingerprint()
    assert set(split.train) <= set(data.split_cases())
    assert set(data.split_cases()) - set(plain.split_cases()) == set(NAMES)
    identity = json.loads(json.dumps(data.identity()))
    source = identity.pop("phantoms")
    assert source["share"] == 0.5
    assert (source["patients"], source["seed"], source["spacing"]) == (2, 0, 5.0)
    assert source["version"] >= 7
    assert any("2 phantoms (SYNTHETIC) give 50%" in notice for notice in data.notices)


def test_a_later_test_on_the_phantoms_is_refused(fitted, module):
    data = fitted()
    card = Exposure.of_split(data.split, data.case_hashes()).to_dict()
    trained = {one["case_id"]: one["content_hash"] for one in card["trained_on"]}
    assert set(NAMES) <= set(trained)
    assert all(trained.values())
    alone = module(root=None, phantoms=None)
    alone.prepare_data()
    alone.stored_split = data.split.to_dict()
    with pytest.raises(InputError, match="every case here was used to train"):
        alone.setup("test")
    others = {"someone": "someone"}
    renamed = {"someone": trained[NAMES[0]]}  # the same images under another name
    with pytest.raises(InputError, match="used to train"):
        evaluation_split(data.split.to_dict(), others, renamed)


def test_its_own_cohort_is_tested_as_it_was_split(fitted, module):
    for options in ({"train_patients": 1}, {"phantoms": 1.0}, {}):
        stored = fitted(**options).split
        again = module(**options)
        again.stored_split = stored.to_dict()
        again.setup("test")
        assert again.split.test == stored.test
        assert again.split.protocol == "default"


def test_phantoms_alone_leave_every_training_patient_out(fitted):
    data, plain = fitted(phantoms=1, patches_per_epoch=4), fitted(phantoms=None)
    assert data.split.train == NAMES
    assert data.split.left_out == plain.split.train
    assert data.split.val == plain.split.val
    assert any("give 100% of the training patches; validation" in one for one in data.notices)
    assert {name for names in ids_of(data) for name in names} <= set(NAMES)


def test_a_few_training_patients_are_a_part_of_more(fitted):
    whole = fitted(phantoms=None, n_folds=6, fold=2).split
    before: set[str] = set()
    for count in range(1, 5):
        split = fitted(phantoms=None, n_folds=6, fold=2, train_patients=count).split
        assert len(split.train) == count
        assert before < set(split.train) <= set(whole.train)
        assert sorted([*split.train, *split.left_out]) == whole.train
        assert (split.val, split.test) == (whole.val, whole.test)
        assert split.source == whole.source
        before = set(split.train)
    with pytest.raises(InputError, match=r"is 5, and the training part .* has 4 patients"):
        fitted(phantoms=None, n_folds=6, fold=2, train_patients=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phantoms": 1.2}, "data.phantoms is 1.2: expected a share from 0 to 1"),
        ({"phantoms": -0.1}, "data.phantoms is -0.1"),
        ({"phantoms": float("nan")}, "data.phantoms is nan"),
        ({"train_patients": -1}, "data.train_patients is -1: expected"),
        ({"train_patients": 0}, "there is no patient to train on"),
        ({"phantoms": 1, "train_patients": 2}, "leave data.train_patients unset"),
    ],
)
def test_settings_without_sense_are_refused(module, options, message):
    with pytest.raises(InputError, match=message):
        module(**options)


def test_a_share_without_patients_is_refused_before_anything_is_generated(module, tmp_path):
    data = module(root=None, cache_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"data\.phantoms is 0\.5, .* as data\.root"):
        data.prepare_data()
    assert not (tmp_path / "phantoms").exists()


@pytest.mark.parametrize("labelled", [0, 1])
def test_too_few_labels_are_told_before_phantoms_are_generated(
    labelled, module, write_case, tmp_path, monkeypatch
):
    for number in range(3):
        write_case(tmp_path / "few", number, labelled=number < labelled)
    data = module(root=str(tmp_path / "few"))
    monkeypatch.setattr(data, "_phantom_files", None)
    message = r"\(BraTS2021_00000, BraTS2021_00001, BraTS2021_00002\): expected a label map"
    if labelled:
        message = r"^1 labelled patient cannot .*no label: BraTS2021_00001, BraTS2021_00002\)\.$"
    with pytest.raises(InputError, match=message):
        data.prepare_data()


def test_phantoms_that_are_also_the_patients_are_refused(module, cache):
    (made,) = (cache / "phantoms").glob("v*-2x5mm-seed0")
    with pytest.raises(InputError, match=r"which is a phantom below data\.root"):
        module(root=str(made), protocol="paper").prepare_data()


def test_a_number_of_patients_and_a_split_by_slice_contradict():
    with pytest.raises(InputError, match="draws single slices"):
        RegisteredSliceDataModule(split_by="slice", train_patients=2)
    with pytest.raises(InputError, match="train_patients is 0: expected 1 or more"):
        RegisteredSliceDataModule(train_patients=0)
