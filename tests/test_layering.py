"""Imports point one way: tvm_lowbit -> relay_passes -> schedules -> tvm."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_NOT_IMPORT = {
    "schedules": {"tvm_lowbit", "relay_passes", "onnx", "torch", "tvm.relax"},
    "relay_passes": {"tvm_lowbit", "onnx", "torch"},
    "tvm_lowbit": {"tests"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, as dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imported(path):
            for barred in MAY_NOT_IMPORT[package]:
                assert not (name == barred or name.startswith(f"{barred}.")), f"{path} imports {name}"


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_files_are_short(package: str) -> None:
    """A file of more than 300 lines holds two ideas."""
    for path in sorted((ROOT / package).rglob("*.py")):
        assert len(path.read_text().splitlines()) <= 300, path


def test_top_level_folders() -> None:
    """The user fixed these; others serve them."""
    fixed = {"tvm_lowbit", "relay_passes", "schedules", "tests", "tuning_logs"}
    assert all((ROOT / name).is_dir() for name in fixed)
    assert all((ROOT / name).is_file() for name in ("pyproject.toml", "README.md", "LICENSE", "CONTRIBUTING.md"))
