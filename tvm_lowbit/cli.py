"""``tvm-lowbit``: parses and prints, decides nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from relay_passes import notes
from relay_passes.attribution.method import DeepLift
from schedules.errors import LowbitError
from schedules.techniques import TECHNIQUES
from tvm_lowbit.artifact import Artifact
from tvm_lowbit.boards.rows import BOARDS, resolve
from tvm_lowbit.boards.session import Board
from tvm_lowbit.build import build, inspect
from tvm_lowbit.deploy import load
from tvm_lowbit.frontend import import_model
from tvm_lowbit.images import arrays_of, read_inputs, write_arrays
from tvm_lowbit.manifest import LayerRow
from tvm_lowbit.pipeline import PHASES, Options, run_phases
from tvm_lowbit.report import Report
from tvm_lowbit.result import Result

F = TypeVar("F", bound=Callable[..., Any])
METHODS = {"deeplift": DeepLift}
BUILD_STEPS = len(PHASES) + 2  # with import and compile
# Up to so many items get a heat map each; more share sheets of so many.
MOST_SINGLE, SHEET = 12, 40
_STOPPED = 130  # 128 + SIGINT, as shells have it


class _Group(click.Group):
    """Commands whose failures are for users: an error and a hint, no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LowbitError as error:
            first, *rest = _plain(str(error)).split("\n")
            click.echo(click.style("error: ", fg="red", bold=True) + "\n".join([first, *rest]), err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(_STOPPED)


class _ClassOrArgmax(click.ParamType):
    name = "INT|argmax"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "argmax" or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a class index nor argmax", param, ctx)


class _Address(click.ParamType):
    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is not HOST:PORT, for example 192.168.1.20:9090", param, ctx)
        return host.strip("[]"), int(port)


def _examples(*lines: str) -> str:
    return "\b\n" + "\n".join(("Examples:", *(f"  tvm-lowbit {line}" for line in lines)))


def _table_help(title: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\b\n" + "\n".join([f"{title}:", *(f"  {name:{width}}  {text}" for name, text in rows.items())])


_TARGETS = _table_help("Targets", {row.name: row.help for row in BOARDS.values()})
_PHASES = _table_help("Phases, in order", {phase.name: phase.help for phase in PHASES})


def _several(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator of several."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_model = click.argument("model", type=click.Path(path_type=Path))
_target = click.option(
    "--target", default="arm_cpu", show_default=True, help="A name below, or a TVM target as JSON. Example: rpi4"
)
_batch = click.option("--batch", type=int, default=1, show_default=True, help="Items computed in one call. Example: 8")
_input = click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    help=".npy of float32 (N, ...); .npz with an array per input; or .png, .jpg: one item, scaled to 0..1.",
)
_explanation = _several(
    click.option("--reference", type=float, help="Input that contributions are measured from. Default: 0. Example: 0.5"),
    click.option(
        "--class", "target_class", type=_ClassOrArgmax(), help="Output to explain. Default: argmax. Example: 3"
    ),
)
_boards = _several(
    click.option("--emulated", metavar="CPU", help="Run on an emulated Arm core. Default: here. Example: cortex-a72"),
    click.option("--board", "address", type=_Address(), help="Run on a board's RPC server. Example: 192.168.1.20:9090"),
    click.option("--key", default="", help="Key of that RPC server. Default: none. Example: rpi4"),
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tvm_lowbit")
def cli() -> None:
    """1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation.

    MODEL is an ONNX file with fake quantisers; BUNDLE a folder that `build` wrote. Exit code 2: what was given cannot
    be served; the message says where, expected, got and a hint.
    """


@cli.command("build", epilog=_TARGETS + "\n\n" + _examples(
    "build digits_w2a2.onnx --out bundle/", "build digits_w2a2.onnx --target rpi4 --explain deeplift --out bundle/"
))
@_model
@_target
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make. Example: bundle/")
@click.option("--explain", type=click.Choice(list(METHODS)), help="Explanation to compile in. Default: none.")
@_explanation
@_batch
@click.option(
    "--technique", help=f"Kernel technique to use wherever it can: {', '.join(TECHNIQUES)}. Default: the fastest."
)
def build_command(
    model: Path,
    target: str,
    out: Path,
    explain: str | None,
    reference: float | None,
    target_class: int | str | None,
    batch: int,
    technique: str | None,
) -> None:
    """Compile MODEL into a bundle: the library, its manifest, and what a board needs to run it."""
    if explain is None and (reference is not None or target_class is not None):
        raise click.UsageError("--reference and --class say how to explain: add --explain deeplift")
    methods = [] if explain is None else [_method(explain, reference, target_class)]
    with _progress(f"build for {target}", BUILD_STEPS + 1) as (step, _):
        artifact = build(_existing(model), _parsed(target), explain=methods, batch=batch, technique=technique, progress=step)
        step("link")
        bundle = artifact.save(out)
    console = _console()
    console.print(artifact.report.table())
    files = {file.name: file.stat().st_size for file in bundle.iterdir()}
    _say(console, f"bundle {out}: {sum(files.values()):,} bytes, of which model.so {files['model.so']:,}")
    _say(console, "on the board: pip install -r requirements.txt && python3 predict.py x.npy")


@cli.command("run", epilog=_examples(
    "run bundle/ --input digit.png --emulated cortex-a72", "run digits_w2a2.onnx --input x.npy --out y.npz"
))
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=click.Path(path_type=Path))
@_input
@click.option("--out", type=click.Path(path_type=Path), help=".npz for all outputs. Default: none. Example: y.npz")
@_boards
def run_command(
    model: Path, source: Path, out: Path | None, emulated: str | None, address: tuple[str, int] | None, key: str
) -> None:
    """Predict: the top class and its value for each item, and the gap where a bundle explains itself.

    A MODEL is built first: for this machine, or for arm_cpu where a board is given.
    """
    board = _board(emulated, address, key)
    artifact = _artifact(model, board, ())
    result = _run(artifact, source, board)[1]
    console = _console()
    console.print(_predictions(result))
    if out is not None:
        _say(console, f"outputs in {write_arrays(out, arrays_of(result))}")


@cli.command("inspect", epilog=_PHASES + "\n\n" + _TARGETS + "\n\n" + _examples(
    "inspect digits_w2a2.onnx --target rpi4", "inspect digits_w2a2.onnx --stop-after detect --dump"
))
@_model
@_target
@_batch
@click.option("--stop-after", metavar="PHASE", help="Last phase to run. Default: all. Example: detect")
@click.option("--dump", is_flag=True, help="Print the program after the last phase, as TVMScript, not the table.")
def inspect_command(model: Path, target: str, batch: int, stop_after: str | None, dump: bool) -> None:
    """Say of each layer whether it runs low-bit, how and why, or why it stays float; builds nothing."""
    console, path, destination = _console(), _existing(model), _parsed(target)
    if stop_after is None and not dump:
        console.print(inspect(path, destination, batch=batch).table())
        return
    mod = run_phases(import_model(path, batch=batch), Options(resolve(destination).core), stop_after)
    if dump:
        click.echo(mod.script())
    else:
        found = notes.read(mod).get("layers", {})
        console.print(Report([LayerRow(name=name, **row) for name, row in found.items()]).table())


@cli.command("explain", epilog=_examples(
    "explain digits_w2a2.onnx --input digit.png --out maps/", "explain bundle/ --input x.npy --out maps/"
))
@click.argument("model", metavar="MODEL_OR_BUNDLE", type=click.Path(path_type=Path))
@_input
@click.option("--method", type=click.Choice(list(METHODS)), default="deeplift", show_default=True, help="How.")
@_explanation
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is written. Example: maps/")
@_boards
def explain_command(
    model: Path,
    source: Path,
    method: str,
    reference: float | None,
    target_class: int | str | None,
    out: Path,
    emulated: str | None,
    address: tuple[str, int] | None,
    key: str,
) -> None:
    """Write heat maps of what each input element adds to the prediction, and contributions.npz.

    A picture for each of up to 12 items, sheets of 40 for more. A BUNDLE gives the explanation it was built with.
    """
    from tvm_lowbit.heatmap import draw, draw_sheet, heatmaps, save  # matplotlib takes a second that others need not

    if model.is_dir() and (reference is not None or target_class is not None):
        raise click.UsageError("a bundle's explanation was fixed when it was built: leave out --reference and --class")
    board = _board(emulated, address, key)
    artifact = _artifact(model, board, (_method(method, reference, target_class),))
    name = next((row.name for row in artifact.manifest.explanations if row.method == method), None)
    if name is None:
        raise LowbitError(str(model), f"a bundle that explains by {method}", "none in it", f"build it with --explain {method}")
    inputs, result = _run(artifact, source, board)
    first = inputs[artifact.manifest.inputs[0].name] if isinstance(inputs, dict) else inputs
    items = heatmaps(first, result, name)
    if len(items) <= MOST_SINGLE:
        written = [save(draw(item), out / f"{item.name.replace(' ', '_')}.png") for item in items]
    else:
        pages = [items[i : i + SHEET] for i in range(0, len(items), SHEET)]
        written = [save(draw_sheet(page, method), out / f"sheet_{i}.png") for i, page in enumerate(pages)]
    console = _console()
    console.print(_predictions(result))
    table = write_arrays(out / "contributions.npz", arrays_of(result))
    _say(console, f"heat maps: {', '.join(map(str, written))}")
    _say(console, f"arrays: {table}")


@cli.command("demo", epilog=_examples("demo", "demo --no-emulated --out /tmp/demo"))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Folder to write.")
@click.option("--emulated/--no-emulated", default=True, show_default=True, help="Whether to run on an emulated Arm board.")
@click.pass_context
def demo_command(ctx: click.Context, out: Path, emulated: bool) -> None:
    """Build the digits example, run it here and on emulated Arm, and measure it against ONNX Runtime and float32.

    Needs a checkout of the repository and pip install 'tvm_lowbit[demo]'. Exit code 1: something promised does not
    hold, or CI is set and there is no emulator.
    """
    from tvm_lowbit.demo import STEPS, run_demo

    with _progress("demo", STEPS, lines=True) as (step, detail):
        demo = run_demo(out, emulated, step, detail)
    console = _console()
    for table in demo.tables():
        console.print(table)
    _say(console, f"digits and their contributions: {demo.sheet}")
    _say(console, f"bundle for a board: {demo.bundle}")
    if demo.skipped is not None:
        _say(console, f"skipped the emulated Arm board: {demo.skipped}")
    ctx.exit(0 if demo.holds and not (demo.skipped and os.environ.get("CI")) else 1)
