"""The local board runs libraries in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from board_samples import HOST, LENGTH, axpy, export

from schedules.errors import LowbitError
from tvm_lowbit.boards import LocalBoard
from tvm_lowbit.linker import Linker, available_linkers, find_linker, host_machine


@pytest.mark.parametrize("linker", available_linkers(host_machine()), ids=lambda linker: linker.name)
def test_every_linker_makes_a_library_that_runs(linker: Linker, tmp_path: Path) -> None:
    with LocalBoard().open() as session:
        for scale in (3, 4):  # the same path twice
            library = export(axpy(scale), HOST, tmp_path / "axpy.so", linker)
            a, out = session.tensor(np.arange(LENGTH, dtype="int32")), session.tensor(np.zeros(LENGTH, "int32"))
            session.load(library)["axpy"](a, a, out)
            np.testing.assert_array_equal(out.numpy(), np.arange(LENGTH) * (scale + 1))


def test_a_library_for_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.so").write_bytes(b"not an ELF file")
    with LocalBoard().open() as session, pytest.raises(LowbitError, match="linked for this machine"):
        session.load(tmp_path / "other.so")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with LocalBoard().open() as session, pytest.raises(LowbitError, match="absent"):
        session.load(tmp_path / "absent.so")


def test_global_functions_are_found() -> None:
    with LocalBoard().open() as session:
        assert session.function("runtime.GetDeviceAttr") is not None
    assert find_linker(host_machine()).machine == host_machine()
