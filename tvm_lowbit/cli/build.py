"""``tvm-lowbit build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from schedules.techniques import TECHNIQUES
from tvm_lowbit import build
from tvm_lowbit.cli.options import (
    METHOD,
    PATH,
    REFERENCES,
    TARGETS,
    batch_option,
    examples,
    exclude_option,
    method_of,
    method_options,
    model_argument,
    target_option,
)
from tvm_lowbit.cli.screen import show
from tvm_lowbit.progress import display


@click.command("build", epilog=TARGETS + REFERENCES + examples("build net.onnx --explain deeplift --out bundle/"))
@model_argument
@target_option
@click.option("--out", type=PATH, required=True, help="Folder to make. Example: bundle/")
@click.option("--explain", type=METHOD, help="Explanation to compile in. Default: none.")
@method_options
@batch_option
@click.option("--technique", help=f"Kernels to use where they can: {', '.join(TECHNIQUES)}. Default: the fastest.")
@exclude_option
@click.option("--progress/--no-progress", default=None, help="Show steps on stderr. Default: on a terminal only.")
def build_command(
    model: Path,
    target: str,
    out: Path,
    explain: str | None,
    settings: Any,
    batch: int,
    progress: bool | None,
    **wished: Any,
) -> None:
    """Compile MODEL into a bundle for a board.

    A bundle holds the library, its manifest, and a program that runs it on the board without tvm_lowbit.
    """
    if explain is None and settings:
        raise click.UsageError("--reference, --class and the like say how to explain: add --explain deeplift")
    methods = [method_of(explain, settings, model)] if explain is not None else []
    with display("build", asked=progress) as step:
        artifact = build(model, target, explain=methods, batch=batch, progress=step, **wished)
        step("link")
        bundle = artifact.save(out)
    show(artifact.report.table())
    click.echo(artifact.report.summary())
    sizes = {file.name: file.stat().st_size for file in bundle.iterdir()}
    click.echo(f"bundle {out}: {sum(sizes.values()):,} bytes, of which model.so {sizes['model.so']:,}")
