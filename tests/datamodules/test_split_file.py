import json

import pytest

from datamodules.splits import make_split
from errors import InputError

SIX = {f"c{n}": f"p{n}" for n in range(6)}


@pytest.fixture
def split(tmp_path):
    def make(content, **options):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "split.json").write_text(text)
        return make_split(SIX, split_file=tmp_path / "split.json", **options)

    return make


def test_two_exams_of_one_patient_are_no_equal_validation_and_test(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["a_1", "b_1"], "val": ["p_1"], "test": ["p_2"]}))
    patients = {"a_1": "a", "b_1": "b", "p_1": "p", "p_2": "p"}
    with pytest.raises(InputError, match="has p both in val and in test"):
        make_split(patients, split_file=file)


def item(number, **others):
    return {"image": [f"data/c{number}/c{number}_t1.nii.gz"], "label": "x_seg.nii.gz", **others}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("3", "it holds 3"),
        ('"abc"', "it holds 'abc'"),
        ("null", "it holds None"),
        ("true", "it holds True"),
        ("[]", "at least 1 item"),
        ("{}", "no key 'train'"),
        (["c0"], "[0] is 'c0'"),
        ([["c0"], ["c1"]], "[0] is ['c0']"),
        ([None], "[0] is None"),
        ([{"train": [1, 2], "val": [3]}], "[0].train[0] is 1"),
        ([{"train": [None], "val": ["c0"]}], "[0].train[0] is None"),
        ([{"train": [["c0"]], "val": ["c1"]}], "[0].train[0] is ['c0']"),
        ([{"train": [], "val": ["c1"]}], "[0].train is []"),
        ([{"train": ["c0", "c1"], "val": ["c2"]}, {"train": 5, "val": ["c2"]}], "[1].train is 5"),
        ({"train": [{"image": "c0"}], "val": ["c1"], "test": ["c2"]}, "train[0] is {'image'"),
        ({"train": ["c0", "c0"], "val": ["c1"], "test": ["c2"]}, "c0 more than once in train"),
        ({"train": ["c0"], "val": ["c1"], "test": ["c0"]}, "both in train and in test"),
        ('{"train": ["c0"], "train": ["c1"]}', "stands twice"),
        ("[" * 100_000, "recursion"),
        ({"training": 3}, "training is 3"),
        ({"training": []}, "training is []"),
        ({"training": [{"label": "x"}]}, "no key 'training[0].image'"),
        ({"training": [{"image": "c0.nii.gz", "fold": "0"}]}, "training[0].fold is '0'"),
        ({"training": [item(0, fold=0), item(1)]}, "gives 1 of 2 patients in training no fold"),
        ({"training": [item(0), item(1)]}, "without folds"),
        ({"training": [item(0, fold=1), item(1, fold=1)]}, "0 patients in fold 0"),
        ({"training": [item(0, fold=0), item(9, fold=1), item(1, fold=1)]}, "1 cases that are not"),
        ({"train": ["x"], "val": ["c1"], "test": ["c2"]}, "such names as c0, c1, c2."),
    ],
)
def test_a_malformed_split_file_is_one_sentence(split, content, what):
    with pytest.raises(InputError) as caught:
        split(content)
    assert "split.json" in str(caught.value)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fold", [-1, 1])
def test_a_fold_that_is_not_there(split, fold):
    with pytest.raises(InputError, match=f"data.fold is {fold}, but .* holds 1 folds"):
        split([{"train": ["c0", "c1"], "val": ["c2"]}], fold=fold)


def test_ids_may_be_names_of_files_and_paths(split):
    made = split(
        {"train": ["c0.nii.gz"], "val": ["imagesTr/c1_0000.nii.gz"], "test": ["./c2/t1.nii"]}
    )
    assert (made.train, made.val, made.test) == (["c0"], ["c1"], ["c2"])


def test_a_fold_of_a_monai_list_is_tested(split):
    listed = {
        "training": [item(n, fold=n % 3) for n in range(6)],
        "testing": [{"image": "x.nii.gz"}],
    }
    made = split(listed, fold=1)
    assert made.test == ["c1", "c4"]
    assert sorted(made.train + made.val) == ["c0", "c2", "c3", "c5"]


def test_a_fold_of_a_monai_list_selects_where_it_names_labelled_test_cases(split):
    listed = {
        "training": [item(n, fold=n % 2) for n in range(4)],
        "testing": ["c4.nii.gz", "c5.nii"],
    }
    made = split(listed, fold=0)
    assert (made.train, made.val, made.test) == (["c1", "c3"], ["c0", "c2"], ["c4", "c5"])


def test_parts_of_a_monai_list(split):
    made = split({"training": [item(0)], "validation": [item(1)], "test": [item(2)]})
    assert (made.train, made.val, made.test) == (["c0"], ["c1"], ["c2"])


def test_a_fold_that_names_test_cases_tests_these(split):
    made = split([{"train": ["c0", "c1"], "val": ["c2"], "test": ["c3"]}])
    assert (made.train, made.val, made.test) == (["c0", "c1"], ["c2"], ["c3"])


def test_a_seed_of_a_split_that_is_not_drawn_is_refused(split):
    with pytest.raises(InputError, match=r"data.split_seed is 1, .* leave data.split_seed out"):
        split({"train": ["c0"], "val": ["c1"], "test": ["c2"]}, seed=1)
    split([{"train": ["c0", "c1", "c2"], "val": ["c3"]}], seed=1)  # validation is drawn
