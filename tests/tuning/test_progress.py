"""What a search shows: time left on a terminal, a line for each problem elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tvm_lowbit.progress import Step, quiet
from tvm_lowbit.tuning.progress import TuneDisplay, told


def test_terminal_shows_time_left() -> None:
    stream, now = io.StringIO(), 0.0
    with TuneDisplay(Console(file=stream, force_terminal=True, width=120, force_interactive=True)) as show:
        show._bar.get_time = lambda: now
        for done in range(5):
            show(Step("tune", "n1h[bold]", done, 64))
            now += 2.0
        assert show._bar.tasks[0].time_remaining == 120  # 60 candidates of 2 seconds
        show(Step("tune", "n1h[bold]", 5, 35))
        show._bar.refresh()
    assert "n1h[bold]" in stream.getvalue() and "5/35" in stream.getvalue() and "0:01:00" in stream.getvalue()


def test_elsewhere_a_line_a_problem() -> None:
    stream = io.StringIO()
    with TuneDisplay(Console(file=stream, width=120)) as show:
        for layer, done in (("one", 0), ("one", 1), ("two", 2)):
            show(Step("tune", layer, done, 9))
    assert stream.getvalue() == "tune: one (0 of 9)\ntune: two (2 of 9)\n"


def test_who_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def callback(step: Step) -> None:
        """Is told as it is."""

    with told(callback) as tell:
        assert tell is callback
    for asked in (False, None):  # stderr is no terminal here
        with told(asked) as tell:
            assert tell is quiet
    with told(True) as tell:
        tell(Step("tune", "one", 0, 2))
    assert "tune: one (0 of 2)" in capfd.readouterr().err
