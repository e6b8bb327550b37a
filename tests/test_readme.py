"""What README promises can be typed as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import tvm_lowbit
from tvm_lowbit.boards.rows import BOARDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: object) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = code.replace("examples/", f"{ROOT}/examples/").replace('"bundle/"', repr(str(tmp_path / "bundle")))
    names: dict[str, object] = {"x": np.zeros((2, 1, 8, 8), np.float32)}
    exec(code, names)  # the block is ours
    assert isinstance(names["module"], tvm_lowbit.Artifact)
    assert (tmp_path / "bundle" / "predict.py").is_file()


def test_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in set(re.findall(r"make (\w+)", TEXT)):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_files_and_boards_exist() -> None:
    for path in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).exists(), path
    for name in BOARDS:
        assert f"`{name}`" in TEXT


def test_no_machine_is_named() -> None:
    """Neither a path of some machine nor a host of a registry belongs into the repository's texts."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"]:
        assert not re.search(r"/(root|home|work)/|pypi\.org|deb\.debian", path.read_text()), path
