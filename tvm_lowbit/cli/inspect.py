"""``tvm-lowbit inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from tvm_lowbit import inspect
from tvm_lowbit.boards.rows import resolve
from tvm_lowbit.cli.options import (
    TARGETS,
    batch_option,
    examples,
    exclude_option,
    model_argument,
    rows_of,
    target_option,
)
from tvm_lowbit.cli.screen import show
from tvm_lowbit.frontend import import_model
from tvm_lowbit.pipeline import PHASES, Options, run_phases

STAGES = rows_of("Phases, in order", {phase.name: phase.help for phase in PHASES})


@click.command(
    "inspect",
    epilog=STAGES + TARGETS + examples("inspect net.onnx", "inspect net.onnx --stop-after detect --dump"),
)
@model_argument
@target_option
@batch_option
@exclude_option
@click.option("--stop-after", metavar="PHASE", help="With --dump, the last phase to run. Default: all. Example: detect")
@click.option("--dump", is_flag=True, help="Print the program as TVMScript, and no table. Default: no.")
def inspect_command(
    model: Path, target: str, batch: int, exclude: tuple[str, ...], stop_after: str | None, dump: bool
) -> None:
    """Say why each layer runs low-bit or stays float; builds nothing."""
    if dump:
        options = Options(resolve(target).core, exclude=exclude)
        click.echo(run_phases(import_model(model, batch=batch), options, stop_after).script())
    elif stop_after is not None:
        raise click.UsageError("--stop-after says which program to print: add --dump")
    else:
        report = inspect(model, target, batch=batch, exclude=exclude)
        show(report.table())
        click.echo(report.summary())
