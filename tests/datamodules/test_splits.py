import json

import pytest

from datamodules.splits import Split, evaluation_split, make_split, read_aliases
from errors import InputError

PATIENTS = {f"case-{n:03d}-{t}": f"patient-{n:03d}" for n in range(100) for t in range(1 + n % 2)}


def sides(split):
    return [{PATIENTS[i] for i in part} for part in (split.train, split.val, split.test)]


def test_default_is_70_10_20_by_patient():
    split = make_split(PATIENTS)
    train, val, test = sides(split)
    assert (len(train), len(val), len(test)) == (70, 10, 20)
    assert not train & val
    assert not (train | val) & test
    assert sorted(split.train + split.val + split.test) == sorted(PATIENTS)
    assert not split.selected_on_test


def test_neither_order_nor_company_changes_a_patients_side():
    split = make_split(PATIENTS)
    assert make_split(dict(reversed(PATIENTS.items()))) == split
    fewer = {i: p for i, p in PATIENTS.items() if p != "patient-007"}
    moved = set(make_split(fewer).test) ^ set(split.test)
    assert len({PATIENTS[i] for i in moved}) <= 2
    assert make_split(PATIENTS, seed=1) != split


def test_folds_cover_every_patient_once_as_test():
    tested = []
    for fold in range(5):
        split = make_split(PATIENTS, n_folds=5, fold=fold)
        train, val, test = sides(split)
        assert (len(train), len(val), len(test)) == (70, 10, 20)
        assert not (train | val) & test
        tested += split.test
    assert sorted(tested) == sorted(PATIENTS)


def test_the_papers_protocol_selects_on_the_tested_patients():
    split = make_split(PATIENTS, protocol="paper")
    assert split.val == split.test
    assert len(sides(split)[0]) == 80
    assert split.selected_on_test


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_small_cohorts_have_no_empty_part(count):
    split = make_split({f"c{n}": f"c{n}" for n in range(count)})
    assert split.train
    assert split.val
    assert split.test


@pytest.mark.parametrize(
    ("patients", "options", "message"),
    [
        (2, {}, "at least 3"),
        (1, {"protocol": "paper"}, "at least 2"),
        (3, {"n_folds": 5}, "n_folds"),
        (5, {"n_folds": 1}, "n_folds"),
        (5, {"n_folds": 5, "fold": 5}, "fold is 5"),
        (2, {"n_folds": 2}, "at least 2"),
    ],
)
def test_impossible_splits_are_refused(patients, options, message):
    with pytest.raises(InputError, match=message):
        make_split({f"c{n}": f"c{n}" for n in range(patients)}, **options)


SIX = {f"c{n}": f"p{n}" for n in range(6)} | {"c5b": "p5"}


def test_own_split_file(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["c0", "c1"], "val": ["c2"], "test": ["c3", "c4"]}))
    split = make_split(SIX, split_file=file)
    assert (split.train, split.val, split.test) == (["c0", "c1"], ["c2"], ["c3", "c4"])


def test_nnunet_folds_are_tested_and_validation_is_cut_from_their_training(tmp_path):
    folds = [
        {"train": ["c0", "c1", "c2"], "val": ["c3", "c4"]},
        {"train": ["c3", "c4", "c2"], "val": ["c0", "c1"]},
    ]
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(folds))
    split = make_split(SIX, split_file=file, fold=1)
    assert split.test == ["c0", "c1"]
    assert sorted(split.train + split.val) == ["c2", "c3", "c4"]
    assert len(split.val) == 1
    paper = make_split(SIX, split_file=file, fold=1, protocol="paper")
    assert paper.val == paper.test == ["c0", "c1"]
    with pytest.raises(InputError, match="2 folds"):
        make_split(SIX, split_file=file, fold=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["c0"], "val": ["c1"], "test": ["x9"]}, "x9"),
        ({"train": ["c0"], "val": ["c1"]}, "'test'"),
        ({"train": ["c0", "c5"], "val": ["c1"], "test": ["c5b"]}, "p5"),
        ({"train": ["c0"], "val": ["c1", "c2"], "test": ["c2"]}, "p2"),
    ],
)
def test_split_files_that_do_not_fit_are_refused(tmp_path, content, message):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        make_split(SIX, split_file=file)


def test_a_split_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        make_split(SIX, split_file=tmp_path / "split.json")


HERE = {f"c{n}": f"p{n}" for n in range(10)}
HASHES = {case_id: f"hash-{case_id}" for case_id in HERE}
STORED = Split(
    [f"c{n}" for n in range(7)], ["c7"], ["c8", "c9"],
    patients=HERE, hashes=HASHES, layouts=["brats2021"],
).to_dict()  # fmt: skip


def evaluate(patients, hashes=None, **options):
    hashes = HASHES if hashes is None else hashes
    return evaluation_split(STORED, patients, hashes, layouts=["brats2021"], **options)


def test_the_same_cohort_gives_the_stored_test_set():
    split, notices = evaluate(HERE)
    assert (split.val, split.test, notices) == (["c7"], ["c8", "c9"], [])


def test_only_the_test_patients_are_enough():
    split, _ = evaluate({i: HERE[i] for i in ("c8", "c9")})
    assert split.test == ["c8", "c9"]


def test_unseen_patients_are_an_external_test_set():
    split, notices = evaluate({"n0": "n0", "n1": "n1"}, {"n0": "a", "n1": "b"})
    assert (split.protocol, split.test, notices) == ("external", ["n0", "n1"], [])


@pytest.mark.parametrize(
    ("patients", "hashes", "named"),
    [
        ({"c1": "p1", "n0": "n0"}, {"c1": "hash-c1", "n0": "a"}, "c1"),
        ({"renamed": "x", "n0": "n0"}, {"renamed": "hash-c7", "n0": "a"}, "renamed"),
        ({"visit2": "p3", "n0": "n0"}, {"visit2": "b", "n0": "a"}, "visit2"),
        ({"c1": "p1"}, {"c1": "hash-c1"}, "c1"),
    ],
)
def test_seen_patients_are_refused_by_name_and_by_content(patients, hashes, named):
    with pytest.raises(InputError, match=named):
        evaluate(patients, hashes)
    split, notices = evaluate(patients, hashes, allow_seen=True)
    assert split.test == sorted(patients)
    assert named in notices[0]


def test_a_stored_test_patient_that_another_stage_trained_on_is_refused():
    leaky = {**STORED, "train": [*STORED["train"], "c8"]}
    with pytest.raises(InputError, match="c8"):
        evaluation_split(leaky, HERE, HASHES, layouts=["brats2021"])


def test_the_papers_protocol_is_scored_with_a_notice():
    paper = {**STORED, "val": ["c8", "c9"], "test": ["c8", "c9"], "protocol": "paper"}
    paper["train"] = [f"c{n}" for n in range(8)]
    split, notices = evaluation_split(paper, HERE, HASHES, layouts=["brats2021"])
    assert split.test == ["c8", "c9"]
    assert "selected on these patients" in notices[0]


def test_another_year_without_mapping_says_overlap_unknown(tmp_path):
    patients, hashes = {"Brats18_A_1": "Brats18_A"}, {"Brats18_A_1": "z"}
    options = {"layouts": ["brats2018"]}
    _, notices = evaluation_split(STORED, patients, hashes, **options)
    assert "overlap unknown" in notices[0]
    mapping = tmp_path / "name_mapping.csv"
    mapping.write_text("Grade,BraTS_2018_subject_ID,BraTS_2021_ID\nHGG,Brats18_A_1,c1\n")
    aliases = read_aliases(tmp_path)
    with pytest.raises(InputError, match="Brats18_A_1"):
        evaluation_split(STORED, patients, hashes, aliases=aliases, **options)
    mapping.write_text("Grade,BraTS_2018_subject_ID,BraTS_2021_ID\nHGG,Brats18_A_1,NA\n")
    split, notices = evaluation_split(
        STORED, patients, hashes, aliases=read_aliases(tmp_path), **options
    )
    assert split.test == ["Brats18_A_1"]


def test_a_split_survives_json():
    split = make_split(PATIENTS, n_folds=3)
    assert Split.from_dict(json.loads(json.dumps(split.to_dict()))) == split


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 1}, "fold is 1 without data.n_folds"),
        ({"n_folds": 3, "split_file": True}, "n_folds is 3 beside data.split_file"),
        ({"fold": 2, "split_file": True}, "holds one split without folds"),
        ({"protocol": "paper", "split_file": True}, "selects on other patients than it tests"),
    ],
)
def test_settings_of_a_split_that_would_be_ignored_are_refused(tmp_path, options, message):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["c0", "c1"], "val": ["c2"], "test": ["c3", "c4"]}))
    options = {**options, **({"split_file": file} if "split_file" in options else {})}
    with pytest.raises(InputError, match=message):
        make_split(SIX, **options)
