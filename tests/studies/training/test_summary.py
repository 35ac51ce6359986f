"""The last lines of a command can be copied, whatever the width of the terminal."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from studies.runs.run import Run
from studies.training import summary

TABLE = Path("per_case.csv")


@pytest.fixture(params=[110, 40])
def narrow(request, monkeypatch, tmp_path):
    """A terminal of some columns, and a working directory with a long name in it."""

    class Terminal(Console):
        def __init__(self, **settings):
            super().__init__(**{"force_terminal": True, "width": request.param, **settings})

    monkeypatch.setattr(summary, "Console", Terminal)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network(per_slice):
    rows = [{"case_id": "p1", "dice/WT": 0.5, "dice/TC": 0.5, "dice/ET": 0.5}]
    counts = {"all": 1000, "trained": 200}
    return SimpleNamespace(test_rows=rows, per_slice=per_slice, parameter_counts=lambda: counts)


def next_words(text):
    (line,) = (line for line in text.splitlines() if line.startswith("Next"))
    return shlex.split(line)[1:]


@pytest.mark.parametrize("runs_dir", ["runs", f"a folder/{'of many names/' * 10}runs"])
def test_the_next_command_stands_in_one_line(narrow, runs_dir):
    run = Run("fusion", "0123456789ab", Path(runs_dir) / "fusion" / "0123456789ab")
    rows = [{"case_id": "p1", "WT": 0.5, "TC": 0.5, "ET": 0.5}]
    command = ["lightning", "fit", "--config", "experiments/fusion.yaml"]
    run.update_manifest(validation_cases=rows, command=command)
    elsewhere = [] if runs_dir == "runs" else ["--runs_dir", runs_dir]
    words = next_words(summary.training_summary(run))
    assert words == ["lightning", "test", "--config", "experiments/fusion.yaml", *elsewhere]
    given = [run.best_checkpoint, Path("moved away/best.ckpt")]
    text = summary.test_summary(
        network(per_slice=False), SimpleNamespace(run=run, checkpoints=given), TABLE, [], []
    )
    assert next_words(text) == [
        *("lightning", "predict"),
        *("--ckpt_path", f"{runs_dir}/fusion/0123456789ab/checkpoints/best.ckpt"),
        *("--ckpt_path", "moved away/best.ckpt"),
        *("--data.root", "DIR", "--output", "predictions"),
    ]


def test_a_checkpoint_whose_run_is_elsewhere_has_its_table_and_its_size(tmp_path):
    run = Run("fusion", "0123456789ab", tmp_path / "nothing here")
    restored = SimpleNamespace(run=run, checkpoints=[tmp_path / "best.ckpt"])
    for per_slice in (False, True):
        text = summary.test_summary(network(per_slice), restored, TABLE, [], [])
        assert "Parameters: 1,000 in all, 200 trained (20.0 %)." in text
        assert ("slices averaged within each case" in text) == per_slice


@pytest.mark.parametrize("dice", [0.0, 0.3])
def test_a_training_that_found_a_region_nowhere_says_so(tmp_path, dice):
    run = Run("fusion", "0123456789ab", tmp_path / "fusion" / "0123456789ab")
    run.update_manifest(validation_cases=[{"case_id": "p1", "WT": 0.5, "ET": dice}], seed=3)
    said = "ET was found in no validation patient: the training failed. Train longer, or with other"
    assert (said in " ".join(summary.training_summary(run).split())) is (dice == 0)
