"""An emulated board for the tests of this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The test folders are no packages: what they share is found by name.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from emulator import require_emulator

from tvm_lowbit.boards.emulated import EmulatedBoard, EmulatedSession


@pytest.fixture(scope="module")
def emulated_board() -> Iterator[EmulatedSession]:
    """Yield a session on an emulated Cortex-A72."""
    require_emulator()
    with EmulatedBoard("cortex-a72").open() as session:
        yield session
