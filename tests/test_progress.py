"""What a build tells of itself: to callbacks, to a terminal, and to nobody by default."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import tvm_lowbit
from tvm_lowbit.progress import STEPS, Display, Step, display

MODEL = Path(__file__).parents[1] / "examples/digits/digits_w2a2.onnx"
LAYERS = 7


def test_callback_is_told_steps_and_layers() -> None:
    """Steps in order, once each; the layers of those that go by layer, between."""
    told: list[Step] = []
    tvm_lowbit.build(MODEL, "host", progress=told.append)
    assert tuple(step for step in told if not step.layer) == STEPS
    for name in ("recover_grid", "lower"):
        layers = [step for step in told if step.name == name and step.layer]
        assert [(step.done, step.total) for step in layers] == [(i + 1, LAYERS) for i in range(LAYERS)]
    layer = next(step for step in told if step.layer)
    assert layer == f"{layer.name}: {layer.layer} (1 of {LAYERS})"


def test_library_is_quiet_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    tvm_lowbit.build(MODEL, "host")
    assert capfd.readouterr() == ("", "")
    tvm_lowbit.build(MODEL, "host", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.split("\n")[:-1] == [f"build: {step}" for step in STEPS]


def shown(terminal: bool) -> tuple[Callable[[str], None], io.StringIO, Display]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, force_interactive=terminal)
    made = Display(console)
    return made, stream, made


def test_terminal_shows_layers() -> None:
    """Names are text, not markup, and without what a terminal would obey."""
    tell, stream, made = shown(terminal=True)
    with made:
        tell(Step("lower", "[bold]conv\x1b[31m", 3, 21))
        made._bar.refresh()
        assert "build: lower [bold]conv[31m" in stream.getvalue()
        assert "3/21" in stream.getvalue()


def test_elsewhere_a_line_a_step() -> None:
    tell, stream, made = shown(terminal=False)
    with made:
        tell(Step("lower"))
        tell(Step("lower", "conv", 1, 2))
        tell("link")
    assert stream.getvalue() == "build: lower\nbuild: link\n"


def test_command_shows_on_a_terminal_or_if_asked(capfd: pytest.CaptureFixture[str]) -> None:
    """Here stderr is no terminal."""
    for asked, lines in ((None, ""), (False, ""), (True, "build: link\n")):
        with display(asked=asked) as step:
            step("link")
        assert capfd.readouterr().err == lines
