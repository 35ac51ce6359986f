"""Bars over patients: lines in a log, no control characters, none for what takes no second."""

import pytest

from progress import make_bar


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("progress.time.monotonic", lambda: seconds[0])
    return seconds


def test_a_log_has_a_line_a_minute_and_one_at_the_end(clock, capsys):
    for _ in make_bar(range(8), desc="preparing cases", total=8, unit="case", delay=1):
        clock[0] += 25
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "preparing cases: 3 of 8, 01:15",
        "preparing cases: 6 of 8, 02:30",
        "preparing cases: 8 of 8, 03:20",
    ]
    assert "\r" not in printed.err


@pytest.mark.parametrize("settings", [{"delay": 1}, {"disable": True}])
def test_what_takes_no_second_or_is_not_asked_for_has_no_line(settings, clock, capsys):
    assert list(make_bar(range(3), desc="preparing", total=3, **settings)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_what_is_counted_by_hand_goes_on_from_what_was_there(clock, capsys):
    with make_bar(desc="downloading", total=4000, initial=1000, unit="B", unit_scale=True) as bar:
        bar.update(2000)
        clock[0] += 2
        bar.write("half of it")
    with make_bar(desc="downloading", unit="B", unit_scale=True) as bar:
        bar.update(2000)
    printed = capsys.readouterr()
    assert printed.out == "half of it\n"
    assert printed.err.splitlines() == [
        "downloading: 3.00kB of 4.00kB, 00:02",
        "downloading: 2.00kB, 00:00",
    ]


def test_a_terminal_has_tqdms_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(make_bar(range(3), desc="preparing", total=3, unit="case")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
