"""``tvm-lowbit explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvm_lowbit import LowbitError
from tvm_lowbit.boards import Board
from tvm_lowbit.cli.options import (
    METHOD,
    METHODS,
    PATH,
    board_options,
    examples,
    input_option,
    method_options,
    there,
)
from tvm_lowbit.cli.running import artifact_of, run_on
from tvm_lowbit.cli.screen import show
from tvm_lowbit.images import arrays_of, predictions, write_arrays


@click.command("explain", epilog=examples("explain net.onnx --input digit.png --out maps/"))
@click.argument("model", metavar="MODEL_OR_BUNDLE", type=PATH, callback=there)
@input_option
@click.option("--method", type=METHOD, default="deeplift", show_default=True, help="How to explain.")
@method_options
@click.option("--out", type=PATH, required=True, help="Folder to write to. Example: maps/")
@board_options
def explain_command(model: Path, source: Path, method: str, settings: Any, out: Path, board: Board | None) -> None:
    """Write heat maps of what each input element adds.

    And contributions.npz. A picture for each of up to 12 items, sheets of 40 for more. A MODEL is built first, as for
    `run`; a BUNDLE gives the explanation that it was built with.
    """
    from tvm_lowbit.heatmap import write_heatmaps  # matplotlib takes a second that other commands need not wait

    if model.is_dir() and settings:
        raise click.UsageError("a bundle's explanation was fixed when it was built: leave out --reference and --class")
    artifact = artifact_of(model, board, [METHODS[method](**settings)])
    name = next((row.name for row in artifact.manifest.explanations if row.method == method), None)
    if name is None:
        raise LowbitError(f"bundle {model}", f"an explanation by {method}", "none", f"build it with --explain {method}")
    inputs, result = run_on(artifact, source, board)
    written = write_heatmaps(out, inputs, result, name)
    write_arrays(out / "contributions.npz", arrays_of(result))
    show(predictions(result))
    click.echo(f"in {out}: {', '.join(path.name for path in written)}, contributions.npz")
