"""Progress for terminals and for logs."""

import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from stepscope.app.progress import Bars, Lines, watch
from stepscope.experiments.progress import TrialEvent


def trial(done: int, total: int = 100, *, cached: bool = False, status: str = "ok") -> TrialEvent:
    return TrialEvent("tuning", "msgd", "M-SGD", status, done, total, lr=0.316, seed=1000, cached=cached)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_now_and_then_with_the_time_left(capsys: pytest.CaptureFixture[str]):
    """One trial a second: a line every ten, and the remaining trials take as many seconds."""
    clock = Clock()
    lines = Lines(clock)
    lines.start(100)
    for done in range(1, 101):
        clock.now += 1
        lines.advance(trial(done))
    printed = capsys.readouterr()
    assert printed.out == ""
    said = printed.err.splitlines()
    assert said[0] == "100 trials"
    assert said[1] == "10 of 100 trials, about 90 s left (M-SGD, lr 0.316)"
    assert said[-1] == "100 of 100 trials (M-SGD, lr 0.316)"
    assert len(said) == 11


def test_lines_do_not_count_earlier_trials_as_fast_ones(capsys: pytest.CaptureFixture[str]):
    """Ninety trials were there already; the eleventh second ends the first new one of the ten left."""
    clock = Clock()
    lines = Lines(clock)
    lines.start(100)
    for done in range(1, 91):
        lines.advance(trial(done, cached=True))
    clock.now += 11
    lines.advance(trial(91, status="diverged"))
    assert capsys.readouterr().err.splitlines()[-1] == "91 of 100 trials, about 99 s left (M-SGD, lr 0.316: diverged)"


def test_bars_move_and_notes_appear_above():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with RichProgress(console=console) as display:
        bars = Bars(display)
        bars.start(4)
        bars.advance(trial(3, 4))
        bars.note("a [note]")
        assert display.tasks[0].completed == 3
        assert display.tasks[0].total == 4
    assert re.search(r"a \[note\]", screen.getvalue())
    assert "75%" in screen.getvalue()


def test_a_pipe_gets_lines():
    with watch() as progress:
        assert isinstance(progress, Lines)


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with watch() as progress:
        assert isinstance(progress, Bars)
