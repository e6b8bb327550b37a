"""Tests that need the emulator skip on a user's machine and fail in CI."""

from __future__ import annotations

import pytest
from emulator import require_emulator

from tvm_lowbit.boards.emulated import EmulatedBoard


@pytest.fixture
def _without_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedBoard, "missing", staticmethod(lambda: "run: sh install_emulator.sh"))


@pytest.mark.usefixtures("_without_emulator")
def test_a_users_machine_is_told_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"install_emulator\.sh"):
        require_emulator()


@pytest.mark.usefixtures("_without_emulator")
def test_ci_may_not_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"install_emulator\.sh"):
        require_emulator()
