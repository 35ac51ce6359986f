"""Patients are recognised between stages with a split by slice and by patient."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.splits import Split
from errors import InputError
from lightning_modules.weights.checkpoints import KEY
from studies.runs.exposure import check_checkpoint

BY_PATIENT = Split(["a", "b"], ["c"], ["d"], hashes={"a": "A", "b": "B", "c": "C", "d": "D"})
BY_SLICE = Split(
    ["a#1", "b#1", "d#2"],
    ["c#1"],
    ["a#2", "d#1"],
    hashes={**BY_PATIENT.hashes, **{f"{n}#{i}": f"{n}{i}" for n in "abcd" for i in (1, 2)}},
)


def checkpoint(folder, split):
    seen = [
        {"case_id": name, "content_hash": split.hashes[name]} for name in split.train + split.val
    ]
    card = {"model": None, "data": {}, "split": split.to_dict(), "seen": seen}
    torch.save({KEY: card, "state_dict": {}}, folder / "stage.ckpt")
    return folder / "stage.ckpt"


def plan(split):
    data = SimpleNamespace(
        split=split,
        identity=dict,
        case_hashes=lambda: split.hashes,
        allow_seen_patients=False,
        root=None,
        notices=[],
    )
    return SimpleNamespace(data=data)


@pytest.mark.parametrize(
    ("stage", "here", "met"),
    [
        (BY_PATIENT, BY_PATIENT, None),
        (BY_SLICE, BY_SLICE, None),
        (BY_SLICE, BY_PATIENT, "d"),
        (BY_PATIENT, BY_SLICE, "a#2"),
    ],
    ids=["patient, patient", "slice, slice", "slice, patient", "patient, slice"],
)
def test_what_a_stage_has_seen(stage, here, met, tmp_path):
    file = checkpoint(tmp_path, stage)
    if met is None:
        check_checkpoint(file, plan(here))
        return
    with pytest.raises(InputError, match=rf"test patients of this experiment \({met}"):
        check_checkpoint(file, plan(here))


def test_a_patient_may_be_called_like_a_slice(tmp_path):
    stage = Split(["p#1"], ["q"], ["r"], hashes={"p#1": "P", "q": "Q", "r": "R"})
    here = Split(["q"], ["r"], ["p#3"], hashes={"p#3": "other", "q": "Q", "r": "R"})
    check_checkpoint(checkpoint(tmp_path, stage), plan(here))
