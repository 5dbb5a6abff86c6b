"""Lines about long work: soon, then seldom, and one at its end; none where it fails."""

import io
from itertools import pairwise

import pytest

from vagen import progress
from vagen.progress import Progress, tracked


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in a list of one, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_short_work_says_when_it_is_done(capsys):
    assert list(tracked("abc", 3, "spell", "letters")) == ["a", "b", "c"]
    assert lines(capsys) == ["spell: 3/3 letters after 0 s"]


def test_long_work_says_so_soon_and_then_seldom(capsys, clock):
    with Progress(100, "count", "sheep") as counter:
        for second in range(1, 101):
            clock[0] = 100.0 + second
            counter.update(note=f"number {second}")
    said = [int(line.split(" after ")[1].split()[0]) for line in lines(capsys)]
    assert said[0] <= 3, "silence at the start"
    assert all(b - a <= 16 for a, b in pairwise(said)), "silence in between"
    assert len(said) < 12, "a line every few seconds for ever"
    assert said[-1] == 100
    assert said.count(100) == 1, "the end is said twice"


def test_the_last_line_keeps_the_last_note(capsys):
    with Progress(2, "train", "steps", start=1) as counter:
        counter.update(note="loss 1.5")
    assert lines(capsys) == ["train: 2/2 steps after 0 s  loss 1.5"]


def test_what_fails_is_not_said_to_be_done(capsys):
    with pytest.raises(ZeroDivisionError):
        list(tracked((1 // n for n in (1, 0)), 2, "divide", "numbers"))
    assert lines(capsys) == []


def test_processes_that_are_not_to_report_are_silent(capsys):
    with Progress(1, "train", "steps", shown=False) as counter:
        counter.update()
    assert lines(capsys) == []


def test_terminals_get_a_bar_and_no_lines(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    with Progress(2, "train", "steps") as counter:
        counter.update(2)
    assert "2/2" in terminal.getvalue()
    assert "after" not in terminal.getvalue()
