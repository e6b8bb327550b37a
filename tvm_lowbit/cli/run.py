"""``tvm-lowbit run``."""

from __future__ import annotations

from pathlib import Path

import click

from tvm_lowbit.boards import Board
from tvm_lowbit.cli.options import PATH, board_options, examples, input_option, there
from tvm_lowbit.cli.running import artifact_of, run_on
from tvm_lowbit.cli.screen import show
from tvm_lowbit.images import arrays_of, predictions, write_arrays


@click.command("run", epilog=examples("run net.onnx --input x.npy", "run bundle/ --input x.png --emulated cortex-a72"))
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=PATH, callback=there)
@input_option
@click.option("--out", type=PATH, help=".npz to write all outputs to. Default: none. Example: y.npz")
@board_options
def run_command(model: Path, source: Path, out: Path | None, board: Board | None) -> None:
    """Predict: the top class and its value for each item.

    Where a bundle explains itself, also what it explained, and the gap. A MODEL is built first: for this machine, or
    for arm_cpu where a board is given.
    """
    _, result = run_on(artifact_of(model, board), source, board)
    show(predictions(result))
    if out is not None:
        click.echo(f"outputs: {write_arrays(out, arrays_of(result))}")
