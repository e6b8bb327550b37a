"""What `run` and `explain` share: an artifact for what was given, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relay_passes.attribution.methods import Method
from tvm_lowbit import Artifact, LowbitError, build, load
from tvm_lowbit.boards import Board
from tvm_lowbit.cli.screen import progress
from tvm_lowbit.images import read_inputs
from tvm_lowbit.progress import display
from tvm_lowbit.result import Result


def artifact_of(model: Path, board: Board | None, methods: Sequence[Method] = ()) -> Artifact:
    """A bundle as it is, or a model built for where it will run.

    Raises
    ------
    LowbitError
        If the model cannot be built, or the bundle is not for this machine and no board is given.
    """
    if not model.is_dir():
        with display("build") as step:
            return build(model, "host" if board is None else "arm_cpu", explain=methods, progress=step)
    artifact = load(model)
    if board is None and not artifact.is_host:
        hint = "run it on a board: --emulated cortex-a72, or --board HOST:PORT"
        raise LowbitError(f"bundle {model}", "a library for this machine", artifact.manifest.mtriple, hint)
    return artifact


def run_on(artifact: Artifact, source: Path, board: Board | None) -> tuple[Any, Result]:
    """The first input, and the result."""
    inputs = read_inputs(source, artifact.manifest)
    with progress("run") as (_, detail):
        result = artifact.run(inputs, board, lambda done, total: detail(f"{done} of {total}"))
    return inputs[artifact.manifest.inputs[0].name] if isinstance(inputs, dict) else inputs, result
