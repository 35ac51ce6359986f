"""The display of a study's jobs."""

import io
import json

import pytest
from rich.console import Console

from studies.jobs.display import Display
from studies.jobs.graph import Job
from studies.runs.run import Run


def jobs(folder):
    run = Run("dynunet", "ab12", folder)
    fit = Job("dynunet-ab12", "fit", run, [], [], None)
    results = folder / "variants"
    results.mkdir()
    return fit, Job("t", "test", run, [], [], None, "without-t1", results=results)


def show(display, fit, test):
    display.started(fit)
    display.started(test)
    for scores, line in (
        ("epoch 1/2", ""),
        ("epoch 1/2  loss 0.5", "epoch 1/2  loss 0.5"),
        ("epoch 2/2  loss 0.5", "epoch 1/2  loss 0.5"),
        ("epoch 2/2  loss 0.4", "epoch 2/2  loss 0.4"),
    ):
        for job in (fit, test):
            state = {"done": 3, "total": 8, "scores": scores, "line": line}
            job.progress_file.write_text(json.dumps(state))
        display.progress([fit, test])
    fit.progress_file.write_text("{")  # half of it: the next look sees it whole
    display.progress([fit])
    display.ended(fit, {"status": "finished", "message": "", "seconds": 3.4}, 1, 2)
    display.ended(test, {"status": "failed", "message": "no good", "seconds": 1.0}, 2, 2)


@pytest.mark.parametrize("coloured", [False, True])
def test_lines_without_a_terminal(coloured, tmp_path, capsys, monkeypatch):
    if coloured:  # as in CI services: colours, but no bars
        monkeypatch.setenv("FORCE_COLOR", "1")
    with Display() as display:
        show(display, *jobs(tmp_path))
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "begins    fit dynunet ab12",
        "begins    test dynunet ab12 without-t1",
        "fit dynunet ab12  epoch 1/2  loss 0.5",
        "fit dynunet ab12  epoch 2/2  loss 0.4",
        "1/2 finished  fit dynunet ab12  3 s",
        "2/2 failed    test dynunet ab12 without-t1  no good",
    ]


def test_a_bar_for_each_job_in_a_terminal(tmp_path):
    screen = io.StringIO()
    screen.isatty = lambda: True
    display = Display(Console(file=screen, force_terminal=True, width=120))
    fit, test = jobs(tmp_path)
    display.started(fit)
    display.started(test)
    state = {"done": 3, "total": 8, "scores": "", "line": ""}
    test.progress_file.write_text(json.dumps(state))
    display.progress([fit, test])
    bars = {task.description: task for task in display.bars.bars.tasks}
    assert (bars["test dynunet ab12 without-t1"].completed, bars["fit dynunet ab12"].total) == (
        3,
        None,
    )
    assert bars["test dynunet ab12 without-t1"].total == 8
    display.ended(test, {"status": "finished", "message": "", "seconds": 2.0}, 1, 2)
    assert [task.description for task in display.bars.bars.tasks] == ["fit dynunet ab12"]
    assert "finished" in screen.getvalue()
