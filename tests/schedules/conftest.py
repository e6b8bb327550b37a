"""The machines that the tests of this folder run kernels on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# The test folders are no packages: what they share is found by name.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from emulator import require_emulator
from kernel_runner import Machine

from schedules.cores import CORES, host_core
from tvm_lowbit.boards.emulated import EmulatedBoard, EmulatedSession


@pytest.fixture(scope="session")
def machines() -> Iterator[Callable[[str], Machine]]:
    """Yield what gives ``host`` or the emulated core of a name; each emulator is started once, when first asked for."""
    sessions: dict[str, EmulatedSession] = {}
    with ExitStack() as stack:

        def find(name: str) -> Machine:
            if name == "host":
                return Machine(host_core())
            require_emulator()
            # A kernel that ends the emulator must fail its own test only.
            if name not in sessions or sessions[name].process.poll() is not None:
                sessions[name] = stack.enter_context(EmulatedBoard(name).open())
            return Machine(CORES[name], sessions[name])

        yield find
