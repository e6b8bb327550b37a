"""``tvm-lowbit bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from schedules.techniques import TECHNIQUES
from tvm_lowbit import Artifact, LowbitError, build, load
from tvm_lowbit.boards.rows import BOARDS
from tvm_lowbit.cli.options import PATH, batch_option, examples, exclude_option, rows_of, there
from tvm_lowbit.cli.screen import show
from tvm_lowbit.progress import display

_BOARDS = {row.name: row.help for row in BOARDS.values() if row.core is not None}


@click.command(
    "bench",
    epilog=rows_of("Boards", _BOARDS) + examples("bench net.onnx --board rpi4 --emulated", "bench bundle/ --emulated"),
)
@click.argument("model", metavar="MODEL_OR_BUNDLE", type=PATH, callback=there)
@click.option("--board", type=click.Choice(list(_BOARDS)), help="A name below. Default: a bundle's own, or arm_cpu.")
@click.option("--emulated", is_flag=True, help="Estimate without the board; needed, as nothing else is. Default: no.")
@click.option("--out", type=PATH, help="Folder for estimate.json and estimate.png. Default: none. Example: bench/")
@click.option("--caches/--no-caches", default=True, show_default=True, help="Count cache misses, in twice the time.")
@click.option("--technique", help=f"Kernels to use where they can: {', '.join(TECHNIQUES)}. Default: the fastest.")
@batch_option
@exclude_option
def bench_command(
    model: Path, board: str | None, emulated: bool, out: Path | None, caches: bool, **wished: Any
) -> None:
    """Estimate what each layer costs on a board, without it.

    The library runs under emulation, every executed block is counted and priced by a model of the core, fitted to
    measured instructions. The figures are estimates, for one thread; two runs give the same.
    """
    if not emulated:
        raise click.UsageError("bench only estimates so far: add --emulated; `run --board` runs on a real board")
    from tvm_lowbit.metering.models import meter_model
    from tvm_lowbit.metering.report import BenchReport
    from tvm_lowbit.metering.tools import require_tools

    require_tools()
    artifact = _artifact(model, board, wished)
    with display("estimate") as step:
        step("run under emulation")
        result = meter_model(artifact, caches=caches)
    row = BOARDS.get(artifact.manifest.board)
    report = BenchReport(model.stem, artifact.manifest.board, None if row is None else row.clock, result)
    show(report.table(), width=180)
    click.echo(report.summary())
    if out is not None:
        click.echo(f"in {out}: {', '.join(path.name for path in report.write(out))}")


def _artifact(model: Path, board: str | None, wished: dict[str, Any]) -> Artifact:
    """A bundle as it is, or a model built for the board."""
    if not model.is_dir():
        with display("build") as step:
            return build(model, board or "arm_cpu", progress=step, **wished)
    artifact = load(model)
    if board not in (None, artifact.manifest.board):
        hint = "leave --board out, or give the model it was built from"
        raise LowbitError(f"bundle {model}", f"one built for {board}", artifact.manifest.board, hint)
    return artifact
