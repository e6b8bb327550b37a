"""``tvm-lowbit tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvm_lowbit import tune
from tvm_lowbit.boards.rows import BOARDS
from tvm_lowbit.cli.options import PATH, batch_option, examples, exclude_option, model_argument, rows_of
from tvm_lowbit.cli.screen import plain, show
from tvm_lowbit.tuning.tune import PATIENCE, TRIALS

_BOARDS = {row.name: row.help for row in BOARDS.values()}


@click.command(
    "tune",
    epilog=rows_of("Boards", _BOARDS) + examples("tune net.onnx --board rpi4 --emulated --trials 32", "tune net.onnx"),
)
@model_argument
@click.option("--board", type=click.Choice(list(_BOARDS)), default="host", show_default=True, help="A name below.")
@click.option("--emulated", is_flag=True, help="Count cycles under emulation: estimates. Default: wall time, here.")
@click.option("--trials", type=int, default=TRIALS, show_default=True, help="Candidates for a layer. Example: 32")
@click.option("--patience", type=int, default=PATIENCE, show_default=True, help="Stop after so many no faster.")
@click.option("--log-dir", type=PATH, help="Folder of records. Default: tuning_logs if there, else the user's.")
@batch_option
@exclude_option
def tune_command(model: Path, board: str, trials: int, log_dir: Path | None, **wished: Any) -> None:
    """Search the fastest kernels for MODEL's layers.

    Tries techniques and their knobs, holds each against the reference, and appends every figure to a log. Ended in any
    way, it goes on when called again. What is fastest is taken by every later `build` for the same core.
    """
    report = tune(model, board, trials, log_dir=log_dir, progress=None, **wished)
    for warning in report.warnings:
        click.echo(f"warning: {plain(warning)}", err=True)
    show(report.table())
    click.echo(report.summary())
