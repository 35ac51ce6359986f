"""The table of a dry run: trials by their parameters, and the time until all have ended."""

from types import SimpleNamespace

import pytest

from studies.jobs import cost_table
from studies.jobs.cost_table import Trial, makespan, print_estimate, short_names
from studies.jobs.estimate import Work

NAMES = ("model.head.init_args.attention", "model.head.init_args.channels", "data.drop_rate")


def job(name, *needs, kind="fit", done=False):
    run = SimpleNamespace(experiment=name, id="0123")
    plan = SimpleNamespace(stages={need: SimpleNamespace(run=run) for need in needs})
    return SimpleNamespace(
        id=name, run=run, plan=plan, kind=kind, needs=list(needs), variant="", finished=lambda: done
    )


@pytest.mark.parametrize(("at_once", "expected"), [(1, 10 + 4 + 5 + 1), (2, 16), (3, 16)])
def test_jobs_begin_when_there_is_room_and_what_they_need(at_once, expected):
    jobs = [job("a"), job("done", done=True), job("b"), job("c", "a", "done"), job("d", "b")]
    seconds = {"a": 10.0, "b": 4.0, "c": 5.0, "d": 1.0}
    if at_once > 1:
        seconds["c"] = 6.0  # a and b side by side, d after b, c from the 10th second on
    assert makespan(jobs, seconds, at_once) == expected
    assert makespan([job("done", done=True)], {}, at_once) == 0


def test_names_are_short_where_that_tells_them_apart():
    assert short_names(NAMES) == ["attention", "channels", "drop_rate"]
    assert short_names(["a.lr", "b.lr"]) == ["a.lr", "b.lr"]


def test_a_sweep_shows_its_parameters(monkeypatch, capsys):
    cost = {"step": 1.0, "memory_gb": 0.5, "checkpoint_gb": 0.25}
    cost |= {"parameters": {"all": 1500, "trained": 20}}
    found = {"net": cost, "one": cost, "two": "no memory"}
    costs = SimpleNamespace(of=lambda job: found[job.id])
    monkeypatch.setattr(cost_table, "Costs", lambda threads: costs)
    monkeypatch.setattr(cost_table, "work_of", lambda job, trains: Work(0, 0))
    monkeypatch.setattr(Work, "seconds", lambda self, cost: 120.0)
    jobs = [job("net"), job("one", "net"), job("two", "net"), job("three", "net", done=True)]
    trials = {
        name: Trial(number, dict(zip(NAMES, ("pooled", 8, 0.1 + 0.2), strict=True)))
        for number, name in enumerate(("one", "two", "three"))
    }
    print_estimate(jobs, 2, 1, trials, further=5)
    further = "And 5 more trials, chosen by the scores of those before, each of about 2 min."
    out = capsys.readouterr().out
    assert out.endswith(further + "\n")
    print_estimate(jobs, 2, 1, trials)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [
        *["job", "attention", "channels", "drop_rate", "done", "parameters", "trained"],
        *["memory", "disk", "time"],
    ] in lines
    amounts = ["no", "1,500", "20", "0.5", "GB", "0.25", "GB", "2", "min"]
    assert ["net", "0123", *amounts] in lines
    assert ["trial", "0", "pooled", "8", "0.3", *amounts] in lines
    assert ["trial", "1", "pooled", "8", "0.3", "no", "unknown"] in lines
    assert ["trial", "2", "pooled", "8", "0.3", "yes"] in lines
    summary = " ".join(word for line in lines[-4:] for word in line)
    assert "Together about 4 min, 2 jobs at once with 1 thread each, and 0.50 GB." in summary
    assert summary.endswith("Time unknown of 1 job: no memory")
