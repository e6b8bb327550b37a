"""``tvm-lowbit demo``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tvm_lowbit.cli.options import PATH, examples
from tvm_lowbit.cli.screen import progress, show


@click.command("demo", epilog=examples("demo", "demo --no-emulated --out /tmp/demo"))
@click.option("--out", type=PATH, default=Path("out"), show_default=True, help="Folder to write to. Example: out/demo")
@click.option("--emulated/--no-emulated", default=True, show_default=True, help="Run a sample on an emulated Arm too.")
def demo_command(out: Path, emulated: bool) -> None:
    """Build the digits example, run it here and on emulated Arm.

    Measures it against ONNX Runtime and its float32 twin; writes a sheet of digits and a bundle. Needs a checkout of
    the repository and pip install 'tvm_lowbit[cross,demo]'. Exit code 1: something promised does not hold, or the
    emulator is missing and the environment variable CI is set.
    """
    from tvm_lowbit.demo import run_demo

    with progress("demo", lines=True) as (step, detail):
        demo = run_demo(out, emulated, step, detail)
    show(*demo.tables())
    click.echo(demo.written)
    raise click.exceptions.Exit(0 if demo.holds and not (demo.skipped and os.environ.get("CI")) else 1)
