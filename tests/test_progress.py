"""Progress bars: lines in a log, no control characters, none for work under a second."""

import pytest

from progress import Bar


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("progress.time.monotonic", lambda: seconds[0])
    return seconds


def test_a_log_has_a_line_a_minute_and_one_at_the_end(clock, capsys):
    with Bar(range(8), desc="preparing cases", total=8, delay=1) as bar:
        for _ in bar:
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
    with Bar(range(3), desc="preparing", total=3, **settings) as bar:
        assert list(bar) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_what_is_counted_by_hand_goes_on_from_what_was_there(clock, capsys):
    with Bar(desc="downloading", total=4000, initial=1000, in_bytes=True) as bar:
        bar.update(2000)
        clock[0] += 2
        bar.write("half of it")
    with Bar(desc="downloading", in_bytes=True) as bar:
        bar.update(2000)
    printed = capsys.readouterr()
    assert printed.out == "half of it\n"
    assert printed.err.splitlines() == [
        "downloading: 3.00kB of 4.00kB, 00:02",
        "downloading: 2.00kB, 00:00",
    ]


def in_a_terminal(monkeypatch):
    """Make stderr a terminal from within a test, as it is replaced before."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_has_a_bar_and_no_lines(clock, capsys, monkeypatch):
    in_a_terminal(monkeypatch)
    with Bar(range(3), desc="preparing", total=3) as bar:
        for _ in bar:
            clock[0] += 100
    printed = capsys.readouterr().err
    assert "3/3" in printed
    assert "3 of 3" not in printed


@pytest.mark.parametrize("settings", [{"delay": 1}, {"disable": True}])
def test_a_terminal_has_no_bar_either(settings, clock, capsys, monkeypatch):
    in_a_terminal(monkeypatch)
    with Bar(range(3), desc="preparing", total=3, **settings) as bar:
        assert list(bar) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_what_goes_into_a_file_does_not_go_to_the_terminal(capsys, monkeypatch):
    in_a_terminal(monkeypatch)
    with Bar(desc="preparing", total=3) as bar:
        print("a result")
        bar.write("another")
    printed = capsys.readouterr()
    assert printed.out == "a result\nanother\n"
    assert "result" not in printed.err
