"""The choice of a linker and what its failure says."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedules.errors import LowbitError
from tvm_lowbit import linker
from tvm_lowbit.linker import LINKERS, Linker, available_linkers, find_linker


def always() -> bool:
    return True


def test_nothing_installed_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(Linker(row.name, lambda: False, row.command, row.links) for row in LINKERS)
    monkeypatch.setattr(linker, "LINKERS", rows)
    with pytest.raises(LowbitError, match=r"gcc-aarch64-linux-gnu.*tvm-lowbit\[cross\]"):
        find_linker("aarch64")


def test_an_empty_path_leaves_only_python_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {row.name for row in available_linkers("aarch64")} <= {"ziglang"}


def test_the_native_compiler_comes_first_on_an_arm_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linker, "host_machine", lambda: "aarch64")
    monkeypatch.setattr(linker, "LINKERS", tuple(Linker(row.name, always, row.command, row.links) for row in LINKERS))
    assert find_linker("arm64").name == "cc"


def test_what_export_library_asks_of_it() -> None:
    row = Linker("any", always, ("true",), "any", "aarch64")
    assert row.output_format == "so"
    assert row.get_target_triple() == "aarch64-linux-gnu"


def test_a_failing_linker_is_quoted(tmp_path: Path) -> None:
    row = Linker("shell", always, ("sh", "-c", "echo wrong format >&2; exit 3"), "any", "aarch64")
    with pytest.raises(LowbitError, match="exit code 3: wrong format"):
        row(tmp_path / "out.so", ["a.o"])
    with pytest.raises(LowbitError, match="a program that starts"):
        Linker("gone", always, (str(tmp_path / "gone"),), "any")(tmp_path / "out.so", ["a.o"])
