"""The one rule for tests that need the emulated board: skipped where it is missing, failed where CI promised it."""

from __future__ import annotations

import os

import pytest

from tvm_lowbit.boards.emulated import EmulatedBoard


def require_emulator() -> None:
    """Skip the running test with the command that brings the emulator; fail it when ``CI`` is set."""
    require(EmulatedBoard.missing())


def require(missing: str | None) -> None:
    """Skip the running test if something is missing (what, and the command that brings it); fail it under CI."""
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {missing}", pytrace=False)
    pytest.skip(missing)
