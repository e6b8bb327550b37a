"""The one rule for tests that need the emulated board: skipped where it is missing, failed where CI promised it."""

from __future__ import annotations

import os

import pytest

from tvm_lowbit.boards.emulated import EmulatedBoard


def require_emulator() -> None:
    """Skip the running test with the command that brings the emulator; fail it when ``CI`` is set."""
    missing = EmulatedBoard.missing()
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must have the emulator: {missing}", pytrace=False)
    pytest.skip(missing)
