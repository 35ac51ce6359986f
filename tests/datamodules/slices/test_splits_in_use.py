"""What the data module trains on and tests for each kind of split, drawn or stored."""

import json

import pytest

from errors import InputError


def test_a_split_by_slice_draws_as_the_paper_and_says_that_patients_leak(module):
    data = module(split_by="slice", empty_fraction=0.0)
    data.setup("fit")
    split = data.split
    count = len(split.train) + len(split.val) + len(split.test)
    assert count == sum(len(data.selected(case_id)) for case_id in data.cases)
    assert len(split.test) / count == pytest.approx(245 / 974, abs=0.02)
    assert not set(split.test) & (set(split.train) | set(split.val))
    assert any("patients were also trained on" in notice for notice in data.notices)
    trained = {f"{i}#{s}" for i, s in data.training_slices()}
    assert trained == set(split.train)
    assert set(split.train + split.val + split.test) <= set(data.case_hashes())
    tested = [
        f"{batch['case_id'][0]}#{index}"
        for batch in data.test_dataloader()
        for index in batch["selected"][0].nonzero()[:, 0].tolist()
    ]
    assert sorted(tested) == split.test
    assert next(iter(data.test_dataloader()))["whole"] == [False]


def test_slices_are_split_into_folds_and_by_the_papers_protocol(module):
    tested = []
    for fold in range(3):
        data = module(split_by="slice", n_folds=3, fold=fold)
        data.setup("fit")
        assert data.split.val
        tested += data.split.test
    assert sorted(tested) == sorted(
        f"{case_id}#{index}" for case_id in data.cases for index in data.selected(case_id)
    )
    paper = module(split_by="slice", protocol="paper")
    paper.setup("fit")
    assert paper.split.val == paper.split.test
    assert paper.split.selected_on_test


def test_a_stored_split_by_slice_is_tested_again_slice_for_slice(module, tmp_path, write_case):
    first = module(split_by="slice", split_seed=5)
    first.setup("fit")
    stored = json.loads(json.dumps(first.split.to_dict()))
    again = module(split_by="slice")
    again.stored_split = stored
    again.setup("test")
    assert again.split.test == first.split.test
    for seen in (first.split.test[0], first.split.test[0].split("#")[0]):  # by an upstream stage
        leaky = module(split_by="slice")
        leaky.stored_split = {**stored, "train": [*stored["train"], seen]}
        with pytest.raises(InputError, match="slices of its test set"):
            leaky.setup("test")
    for number in range(20, 23):
        write_case(tmp_path / "other", number)
    external = module(root=str(tmp_path / "other"), split_by="slice")
    external.stored_split = stored
    external.setup("test")
    assert external.split.protocol == "external"
    assert len(external.split.test) == 3
    assert all(batch["whole"] == [True] for batch in external.test_dataloader())
    write_case(tmp_path / "other", 25, seed=1)  # the images of a patient trained on
    mixed = module(root=str(tmp_path / "other"), split_by="slice")
    mixed.stored_split = stored
    with pytest.raises(InputError, match="BraTS2021_00025"):
        mixed.setup("test")


def test_a_stored_split_by_patient_decides_what_is_tested(module):
    first = module(split_seed=5)
    first.setup("fit")
    again = module(split_by="slice")  # the checkpoint's split is by patient, and rules
    again.stored_split = first.split.to_dict()
    again.setup("test")
    assert again.split.test == first.split.test
    assert [batch["case_id"][0] for batch in again.test_dataloader()] == first.split.test
