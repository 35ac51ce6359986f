"""A test that differs from the run's own has its scores in a folder of their own."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import Namespace

from datamodules.splits import Split
from errors import InputError
from evaluation.metrics.postprocessing import Postprocessing
from evaluation.metrics.scores import EMPTY_RULES
from lightning_modules.contracts.settings import UseSettings
from studies.runs.run import Run
from studies.training import applying
from studies.training.applying import Application

TRAINED = {"spacing": 1.0, "selection": "largest", "batch_size": 4, "seed": 0, "filled": {}}


def folder_of(data=None, model=None, **arguments):
    """Return the folder of a test's scores, below the run's."""
    run = Run("fusion", "f0", Path("runs/fusion/f0"))
    card = {"data": TRAINED, "split": {"test": ["p3", "p4"]}, "run": {"id": "f0"}}
    restored = SimpleNamespace(
        cards=[card], checkpoints=[run.best_checkpoint], model_words=[], run=run
    )
    application = Application(
        "test", restored, SimpleNamespace(results_dir=None, postprocessing="on", **arguments)
    )
    settings = {**TRAINED, **(data or {})}
    split = settings.pop("split", Split(["p1"], ["p2"], ["p4", "p3"]))
    found = application.results_folder(
        SimpleNamespace(
            split=split,
            drop=settings.get("drop", []),
            identity=lambda: settings,
            fingerprint=lambda: "0123456789",
            case_hashes=dict,
        ),
        SimpleNamespace(
            **{
                "usage": UseSettings(),
                "test_rows": [{"case_id": case_id} for case_id in split.test],
                **(model or {}),
            }
        ),
    )
    return found.relative_to(run.folder).as_posix()


def test_its_own_test_lies_in_its_own_folder():
    assert folder_of() == "."


def test_settings_that_change_no_test_leave_it_its_own():
    assert folder_of({"batch_size": 1, "seed": 3, "modality_dropout": 0.2}) == "."


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
    model = {"usage": UseSettings(Postprocessing(), EMPTY_RULES["nan"])}
    assert folder_of(model=model) == "postprocessing-on/rule-nan"


def predicting(
    folder,
    checkpoint=b"one",
    data=None,
    kind="datamodules.BraTSPatchDataModule",
    output="predictions",
    **changed,
):
    """Return a prediction into a folder, before anything was loaded."""
    run = Run("fusion", "f0", folder / "runs" / "fusion" / "f0")
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    run.best_checkpoint.write_bytes(checkpoint)
    card = {"run": {"experiment": "fusion", "id": "f0"}}
    restored = SimpleNamespace(
        cards=[card], checkpoints=[run.best_checkpoint], model_words=[], run=run
    )
    settings = {"root": "exams", "images": None, "spacing": 1.0, "batch_size": 2, **(data or {})}
    given = {"tta": "none", "postprocessing": "as_trained", "overwrite": False, **changed}
    of_patients = Namespace(class_path=kind, init_args=Namespace(settings))
    arguments = Namespace(
        output=output, data=of_patients, trainer=Namespace(precision=None, logger=None), **given
    )
    application = Application("predict", restored, arguments)
    application.prepare()
    return application


def test_predictions_of_something_else_are_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predicting(tmp_path).record.write()
    predicting(tmp_path)  # the same, such as one that was aborted
    predicting(tmp_path, data={"batch_size": 8, "root": str(tmp_path / "exams")})
    for changed, message in (
        ({"checkpoint": b"two"}, "results of checkpoint fusion/f0 (7692c3ad3540) instead of"),
        ({"tta": "flips"}, "results of tta none instead of flips:"),
        ({"postprocessing": "on"}, "results of postprocessing as_trained instead of on:"),
        ({"data": {"root": "new"}}, f"patients {tmp_path}/exams instead of {tmp_path}/new:"),
        ({"data": {"root": None}}, "exams instead of phantoms"),
        ({"data": {"images": {"t1": "a.nii"}}}, f"exams instead of {tmp_path}/a.nii:"),
        ({"data": {"drop": ["t1"]}}, "results of data.drop unset instead of ['t1']:"),
    ):
        with pytest.raises(InputError) as refused:
            predicting(tmp_path, **changed)
        assert message in str(refused.value)
        assert str(refused.value).startswith("--output predictions holds results of ")


def test_predictions_of_something_else_are_moved_aside_when_that_is_wished(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    predicting(tmp_path).record.write()
    again = predicting(tmp_path, overwrite=True)
    again.make_room(again.record)
    assert Path("predictions/prediction.json").is_file()  # predictions of the same inputs stay
    other = predicting(tmp_path, overwrite=True, tta="flips")
    assert Path("predictions").exists()  # until all checks have passed
    other.make_room(other.record)
    (aside,) = tmp_path.glob("predictions.replaced-*")
    assert (aside / "prediction.json").is_file()
    assert capsys.readouterr().out == f"Note: what predictions held lies in {aside} now.\n"
    assert list(Path("predictions").iterdir()) == []


def test_every_process_refuses_what_the_first_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predicting(tmp_path).record.write()
    monkeypatch.setattr(applying, "is_main_process", lambda: False)
    with pytest.raises(InputError, match="results of tta none instead of flips"):
        predicting(tmp_path, tta="flips")


def test_an_output_that_cannot_be_written_is_refused_as_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("predictions").touch()
    with pytest.raises(InputError, match=r"^--output predictions cannot be written"):
        predicting(tmp_path)


@pytest.mark.parametrize("kind", ["BraTSPatchDataModule", "RegisteredSliceDataModule"])
def test_predictions_never_lie_among_the_patients_whatever_the_study(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    images = {}
    for name in ("t1", "t1ce", "t2", "flair"):
        images[name] = str(tmp_path / "ward" / "p1" / f"p1_{name}.nii.gz")
        Path(images[name]).parent.mkdir(parents=True, exist_ok=True)
        Path(images[name]).touch()
    kind = f"datamodules.{kind}"
    for output in ("ward/p1", "ward", ".", "ward/../ward/p1"):
        with pytest.raises(InputError, match="give a folder of its own as --output"):
            predicting(tmp_path, kind=kind, output=output, data={"images": images, "root": None})
    for output in ("ward", "ward/p1", "ward/new"):
        with pytest.raises(InputError, match="give a folder of its own outside of it"):
            predicting(tmp_path, kind=kind, output=output, data={"root": "ward"})
    predicting(tmp_path, kind=kind, output="ward/p1/new", data={"images": images, "root": None})
    predicting(tmp_path, kind=kind, output="new", data={"root": "ward"})
