"""What makes a test another one than the run's own: its scores go to a folder of their own."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.splits import Split
from evaluation.metrics import BRATS, EMPTY_RULES
from evaluation.postprocessing import Postprocessing
from studies.applying import Application
from studies.runs import Run

TRAINED = {"spacing": 1.0, "selection": "largest", "batch_size": 4, "seed": 0, "filled": {}}


def folder_of(data=None, model=None, **arguments):
    """Return the folder of a test's scores, below the run's."""
    run = Run("fusion", "f0", Path("runs/fusion/f0"))
    card = {"data": TRAINED, "split": {"test": ["p3", "p4"]}, "run": {"id": "f0"}}
    recalled = SimpleNamespace(
        cards=[card], checkpoints=[run.best_checkpoint], model_words=[], run=run
    )
    application = Application(
        "test", recalled, SimpleNamespace(results_dir=None, postprocessing="on", **arguments)
    )
    settings = {**TRAINED, **(data or {})}
    split = settings.pop("split", Split(["p1"], ["p2"], ["p4", "p3"]))
    found = application._results_folder(
        SimpleNamespace(
            split=split,
            drop=settings.get("drop", []),
            identity=lambda: settings,
            fingerprint=lambda: "0123456789",
            case_hashes=dict,
        ),
        SimpleNamespace(
            **{
                "postprocessing": None,
                "empty_rule": BRATS,
                "test_rows": [{"case_id": case_id} for case_id in split.test],
                **(model or {}),
            }
        ),
    )
    return found.relative_to(run.folder).as_posix()


def test_its_own_test_lies_in_its_own_folder():
    assert folder_of() == "."


def test_settings_that_change_no_test_leave_it_its_own():
    assert folder_of({"batch_size": 1, "seed": 3}) == "."


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"selection": "all_tumour"}, "data-"),
        ({"drop": ["t1", "t2"]}, "without-t1-t2"),
        ({"split": Split(["p1"], ["p2"], ["p3"])}, "patients-"),
        (
            {"split": Split([], [], ["q1"], "external"), "filled": {"q1": ["t1"]}},
            "external-01234567",
        ),
    ],
)
def test_other_data_do_not_write_over_its_scores(data, named):
    found = folder_of(data)
    assert found.startswith(named)
    assert "/" not in found
    assert folder_of({**data, "spacing": 2.0}) not in (found, ".")


def test_a_part_of_its_patients_is_not_its_test():
    assert folder_of(model={"test_rows": [{"case_id": "p3"}]}) == "partial"


def test_another_rule_and_postprocessing_lie_one_in_the_other():
    model = {"empty_rule": EMPTY_RULES["nan"], "postprocessing": Postprocessing()}
    assert folder_of(model=model) == "postprocessing-on/rule-nan"
