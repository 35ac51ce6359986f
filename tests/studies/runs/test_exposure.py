"""Training and selection are kept apart: no stage was trained on a tested patient."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.splits import Split, evaluation_split
from errors import InputError
from lightning_modules.weights.checkpoints import KEY
from studies.runs.exposure import Exposure, check_checkpoint, only_synthetic, stored_split

NAMES = [f"p{number}" for number in range(10)]
HASHES = {name: f"content of {name}" for name in NAMES}


def split(train, val, test, protocol="default", patients=None):
    people = {name: name for name in NAMES} | (patients or {})
    return Split(train, val, test, protocol, "", people, HASHES, ["brats2021"])


PAPER = split(NAMES[2:], NAMES[:2], NAMES[:2], "paper")
SHIFTED = split(NAMES[:8], NAMES[8:], NAMES[8:], "paper")  # trained on the tested two of PAPER
DEFAULT = split(NAMES[3:], NAMES[2:3], NAMES[:2])


def card_of(own, *upstream, old=False, model=None):
    """Return the card of a training with this split and stages, of this schema or schema 1."""
    exposure = Exposure.of_split(own)
    for stage in upstream:
        exposure.add(Exposure.of_card(stage))
    card = {"model": model, "data": {}, "split": own.to_dict(), **exposure.to_dict()}
    for name in ("schema", "trained_on", "selected_on") if old else ():
        del card[name]
    return card


def file_of(folder, card):
    torch.save({KEY: card, "state_dict": {}}, folder / "stage.ckpt")
    return folder / "stage.ckpt"


def plan(own, **changes):
    settings = {"allow_seen_patients": False, "notices": [], "identity": dict, "root": None}
    settings |= {"split": own, "case_hashes": lambda: HASHES, **changes}
    return SimpleNamespace(data=SimpleNamespace(**settings))


@pytest.mark.parametrize("old", [False, True])
def test_a_stage_that_was_trained_on_the_papers_test_patients_is_refused(old, tmp_path):
    with pytest.raises(InputError, match=r"was trained on 2 of the test patients .*\(p0, p1\)"):
        check_checkpoint(file_of(tmp_path, card_of(SHIFTED, old=old)), plan(PAPER))
    check_checkpoint(file_of(tmp_path, card_of(PAPER, old=old)), plan(PAPER))  # selected on only


def test_so_is_a_stage_that_selected_on_them_and_stands_on_one_that_trained(tmp_path):
    middle = card_of(PAPER, card_of(SHIFTED))
    with pytest.raises(InputError, match="was trained on 2 of the test"):
        check_checkpoint(file_of(tmp_path, middle), plan(PAPER))
    with pytest.raises(InputError, match=r"a stage it was built from, was trained on .*p0, p1"):
        evaluation_split(stored_split([middle]), HASHES, HASHES)


def test_of_an_older_card_over_files_nothing_is_taken_to_be_selected_alone(tmp_path):
    over = card_of(PAPER, card_of(SHIFTED), old=True, model={"backbones": ["a/best.ckpt"]})
    with pytest.raises(InputError, match=r"older card does not record which of the two\.$"):
        check_checkpoint(file_of(tmp_path, over), plan(PAPER))
    with pytest.raises(InputError, match="was trained on patients of its test set"):
        evaluation_split(stored_split([over]), HASHES, HASHES)


def test_a_patient_whom_another_year_calls_otherwise_is_met_by_the_table_of_names(tmp_path):
    here = Split(["n0"], ["n1"], ["n2"], layouts=["brats2018"])
    stage, hashes = file_of(tmp_path, card_of(DEFAULT)), dict.fromkeys(("n0", "n1", "n2"), "x")
    unknown = plan(here, root=str(tmp_path), case_hashes=lambda: hashes)
    check_checkpoint(stage, unknown)
    assert "overlap unknown: trained on brats2021, tested on brats2018" in unknown.data.notices[0]
    (tmp_path / "name_mapping.csv").write_text("BraTS_2018_ID,BraTS_2021_ID\nn2,p5\n")
    with pytest.raises(InputError, match=r"trained or selected on 1 of the test .*\(n2\)"):
        check_checkpoint(stage, plan(here, root=str(tmp_path), case_hashes=lambda: hashes))
    (tmp_path / "name_mapping.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"name_mapping\.csv cannot be read as a table of names"):
        check_checkpoint(stage, plan(here, root=str(tmp_path)))


@pytest.mark.parametrize("old", [False, True])
def test_older_cards_stay_usable_under_the_default_protocol(old, tmp_path):
    over = {"backbones": ["a/best.ckpt"]}
    card = card_of(DEFAULT, card_of(DEFAULT, old=old), old=old, model=over)
    check_checkpoint(file_of(tmp_path, card), here := plan(DEFAULT))
    assert here.data.notices == []
    found, _ = evaluation_split(stored_split([card]), HASHES, HASHES)
    assert found.test == NAMES[:2]


def test_selection_on_a_test_patient_is_refused_where_both_are_kept_apart(tmp_path):
    stage = card_of(split(NAMES[2:9], ["p0"], ["p9", "p1"]))
    with pytest.raises(InputError, match=r"trained or selected on 1 .*\(p0\)"):
        check_checkpoint(file_of(tmp_path, stage), plan(DEFAULT))


def test_another_visit_of_a_trained_patient_is_the_patient(tmp_path):
    stage = card_of(split(NAMES[2:8], ["p8"], ["p9"], patients={"p2": "Ann"}))
    here = plan(split(NAMES[3:], ["p2"], ["p1", "p0"], patients={"p0": "Ann", "p2": "other"}))
    with pytest.raises(InputError, match=r"on 1 of the test patients .*\(p0\)"):
        check_checkpoint(file_of(tmp_path, stage), here)


def test_what_is_allowed_in_writing_is_said(tmp_path):
    here = plan(PAPER, allow_seen_patients=True)
    check_checkpoint(file_of(tmp_path, card_of(SHIFTED)), here)
    assert "was trained on 2 test patients, as is allowed: p0, p1" in here.data.notices[0]


def test_validation_patients_that_a_stage_was_trained_on_are_said(tmp_path):
    stage = card_of(split(NAMES[2:], ["p1"], ["p0"]))
    here = plan(split(NAMES[3:], ["p2"], ["p0"]))
    check_checkpoint(file_of(tmp_path, stage), here)
    assert "was trained on 1 of the 1 validation patients (p2)" in here.data.notices[0]
    built = card_of(here.data.split, stage)
    own = stored_split([built])
    known = {name: name for name in NAMES[2:]} | {"p0": "p0"}
    _, notices = evaluation_split(own, known, HASHES, stage="validate")
    assert notices == ["validated although a stage was trained on them: p2"]


def test_a_member_of_an_ensemble_that_was_trained_on_the_tested_is_refused():
    evaluation_split(stored_split([card_of(PAPER), card_of(PAPER)]), HASHES, HASHES)
    with pytest.raises(InputError, match=r"\(p0, p1\)"):
        evaluation_split(stored_split([card_of(PAPER), card_of(SHIFTED)]), HASHES, HASHES)


def earlier_card(root, model="lightning_modules.FusionModule"):
    """Return the card of a version that did not record the origin of the patients."""
    data = {"class_path": "datamodules.BraTSPatchDataModule", "init_args": {"root": root}}
    return {"config": {"data": data, "model": {"init_args": {"backbones": [model]}}}}


@pytest.mark.parametrize(
    ("card", "synthetic"),
    [
        ({"synthetic": True, **earlier_card("cohort")}, True),  # written by `lightning phantom`
        ({"synthetic": False, **earlier_card(None)}, False),  # built upon real patients
        (earlier_card(None), True),
        (earlier_card("/data/BraTS2018"), False),
        (earlier_card(None, "runs/dynunet/x/checkpoints/best.ckpt"), False),
        ({}, False),
    ],
)
def test_only_a_card_without_real_patients_is_synthetic(card, synthetic):
    assert only_synthetic(card) is synthetic


@pytest.mark.parametrize("synthetic", [False, True])
def test_only_patients_may_have_been_renamed_in_another_year(synthetic):
    card = {**card_of(DEFAULT), "synthetic": synthetic}
    _, notices = evaluation_split(stored_split([card]), {"x": "x"}, {}, layouts=["brats2018"])
    assert ["overlap unknown" in notice for notice in notices] == [True] * (not synthetic)


def test_other_z_scores_are_refused_by_the_names_that_a_user_gives_them(tmp_path):
    card = card_of(DEFAULT) | {"data": {"spacing": 1.0, "normalisation": 1}}
    here = plan(DEFAULT, identity=lambda: {"spacing": 1.0, "normalisation": "brain"})
    with pytest.raises(
        InputError, match=r"with normalisation clipped, this .* normalisation brain"
    ):
        check_checkpoint(file_of(tmp_path, card), here, "mine")


def test_foreign_networks_whose_training_patients_are_unknown_stay_so_in_what_is_built_on_them():
    unknown = card_of(DEFAULT) | {"unknown": ["a bundle"]}
    assert Exposure.of_card(card_of(DEFAULT, unknown, card_of(DEFAULT))).unknown == ["a bundle"]
    assert "unknown" not in card_of(DEFAULT)
