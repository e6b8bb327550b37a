"""``tvm-lowbit``: parses and prints, decides nothing."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from schedules.techniques import TECHNIQUES
from tvm_lowbit import Artifact, DeepLift, LowbitError, build, inspect, load
from tvm_lowbit.boards import Board, EmulatedBoard, RpcBoard
from tvm_lowbit.boards.rows import BOARDS, resolve
from tvm_lowbit.frontend import import_model
from tvm_lowbit.images import arrays_of, predictions, read_inputs, write_arrays
from tvm_lowbit.pipeline import PHASES, Options, run_phases
from tvm_lowbit.result import Result

METHODS = {"deeplift": DeepLift}
PATH = click.Path(path_type=Path)


class _Group(click.Group):
    """Commands whose failures are for users: an error and a hint, no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        interrupts: list[int] = []

        def note(number: int, frame: Any) -> None:
            interrupts.append(number)
            raise KeyboardInterrupt

        # Noted, because TVM turns an interrupt inside its passes into a RuntimeError that says nothing.
        previous = signal.getsignal(signal.SIGINT)
        if previous is signal.default_int_handler:  # in the background it may be ignored
            signal.signal(signal.SIGINT, note)
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if interrupts or isinstance(error, KeyboardInterrupt):
                click.echo("stopped", err=True)
                ctx.exit(130)  # 128 + SIGINT, as shells have it
            if not isinstance(error, LowbitError):
                raise
            click.echo(click.style("error: ", fg="red", bold=True) + _plain(str(error)), err=True)
            ctx.exit(2)
        finally:
            signal.signal(signal.SIGINT, previous)


def _there(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if not value.exists():
        raise LowbitError(str(value), "an ONNX file or a bundle", "nothing there", "is the path right?")
    return value


def _class(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is not None and value != "argmax" and not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a class index nor argmax")
    return int(value) if value is not None and value.isdecimal() else value


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    host, _, port = (value or "").rpartition(":")
    if value is not None and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, for example 192.168.1.20:9090")
    return (host.strip("[]"), int(port)) if value is not None else None


def _rows(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\b\n" + "\n".join([f"{title}:", *(f"  {name:{width}}  {text}" for name, text in rows.items())]) + "\n\n"


def _examples(*lines: str) -> str:
    return "\b\n" + "\n".join(("Examples:", *(f"  tvm-lowbit {line}" for line in lines)))


TARGETS = _rows("Targets", {row.name: row.help for row in BOARDS.values()})
STAGES = _rows("Phases, in order", {phase.name: phase.help for phase in PHASES})
_METHOD = click.Choice(list(METHODS))
_BOARD_HELP = "Run on a board's RPC server. Default: here. Example: 192.168.1.20:9090"
_model = click.argument("model", type=PATH, callback=_there)
_target = click.option("--target", default="arm_cpu", show_default=True, help="A name below. Example: rpi4")
_batch = click.option("--batch", type=int, default=1, show_default=True, help="Items computed in one call. Example: 8")
_exclude_help = "A layer that stays float; may be given again. Default: none. Example: conv1"
_exclude = click.option("--exclude", multiple=True, metavar="LAYER", help=_exclude_help)
_input_help = ".npy of float32 (N, ...); .npz, an array per input; .png or .jpg, one item, scaled to 0..1"
_input = click.option("--input", "source", type=PATH, required=True, metavar="FILE", help=_input_help)


def _board_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose a board; the command gets ``board``."""

    @click.option("--emulated", metavar="CPU", help="Run on an emulated Arm. Default: here. Example: cortex-a72")
    @click.option("--board", "address", callback=_address, metavar="HOST:PORT", help=_BOARD_HELP)
    @click.option("--key", default="", help="Key of that server. Default: none. Example: rpi4")
    @functools.wraps(command)
    def wrapped(emulated: str | None, address: tuple[str, int] | None, key: str, **rest: Any) -> None:
        if emulated is not None and address is not None:
            raise click.UsageError("--emulated and --board exclude each other")
        there = RpcBoard(*address, key=key) if address is not None else None
        command(board=EmulatedBoard(emulated) if emulated is not None else there, **rest)

    return wrapped


def _method_options(command: Callable[..., None]) -> Callable[..., None]:
    """What an explanation is asked for with; the command gets ``settings``, those given."""

    @click.option("--reference", type=float, help="Input that contributions count from. Default: 0. Example: 0.5")
    @click.option(
        "--class", "index", callback=_class, metavar="INT|argmax", help="Class to show. Default: argmax. Example: 3"
    )
    @functools.wraps(command)
    def wrapped(reference: float | None, index: int | str | None, **rest: Any) -> None:
        given = {"reference": reference, "target": index}
        command(settings={name: value for name, value in given.items() if value is not None}, **rest)

    return wrapped


@click.group("tvm-lowbit", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """1 to 8 bit networks compiled for Arm boards, each prediction with its exact explanation.

    MODEL is an ONNX file with fake quantisers; BUNDLE a folder that `build` wrote. Exit code 2: what was given cannot
    be served; the message says where, expected, got and a hint.
    """


@cli.command("build", epilog=TARGETS + _examples("build net.onnx --explain deeplift --out bundle/"))
@_model
@_target
@click.option("--out", type=PATH, required=True, help="Folder to make. Example: bundle/")
@click.option("--explain", type=_METHOD, help="Explanation to compile in. Default: none.")
@_method_options
@_batch
@click.option("--technique", help=f"Kernels to use where they can: {', '.join(TECHNIQUES)}. Default: the fastest.")
@_exclude
def build_command(
    model: Path, target: str, out: Path, explain: str | None, settings: Any, batch: int, **wished: Any
) -> None:
    """Compile MODEL into a bundle for a board.

    A bundle holds the library, its manifest, and a program that runs it on the board without tvm_lowbit.
    """
    if explain is None and settings:
        raise click.UsageError("--reference and --class say how to explain: add --explain deeplift")
    methods = [METHODS[explain](**settings)] if explain is not None else []
    with _progress("build") as (step, _):
        artifact = build(model, target, explain=methods, batch=batch, progress=step, **wished)
        step("link")
        bundle = artifact.save(out)
    _print(artifact.report.table())
    sizes = {file.name: file.stat().st_size for file in bundle.iterdir()}
    click.echo(f"bundle {out}: {sum(sizes.values()):,} bytes, of which model.so {sizes['model.so']:,}")


@cli.command("run", epilog=_examples("run net.onnx --input x.npy", "run bundle/ --input x.png --emulated cortex-a72"))
@click.argument("model", metavar="BUNDLE_OR_MODEL", type=PATH, callback=_there)
@_input
@click.option("--out", type=PATH, help=".npz to write all outputs to. Default: none. Example: y.npz")
@_board_options
def run_command(model: Path, source: Path, out: Path | None, board: Board | None) -> None:
    """Predict: the top class and its value for each item.

    Where a bundle explains itself, also what it explained, and the gap. A MODEL is built first: for this machine, or
    for arm_cpu where a board is given.
    """
    _, result = _run(_artifact(model, board), source, board)
    _print(predictions(result))
    if out is not None:
        click.echo(f"outputs: {write_arrays(out, arrays_of(result))}")


@cli.command(
    "inspect",
    epilog=STAGES + TARGETS + _examples("inspect net.onnx", "inspect net.onnx --stop-after detect --dump"),
)
@_model
@_target
@_batch
@click.option("--stop-after", metavar="PHASE", help="With --dump, the last phase to run. Default: all. Example: detect")
@click.option("--dump", is_flag=True, help="Print the program as TVMScript, and no table. Default: no.")
def inspect_command(model: Path, target: str, batch: int, stop_after: str | None, dump: bool) -> None:
    """Say why each layer runs low-bit or stays float; builds nothing."""
    if dump:
        click.echo(run_phases(import_model(model, batch=batch), Options(resolve(target).core), stop_after).script())
    elif stop_after is not None:
        raise click.UsageError("--stop-after says which program to print: add --dump")
    else:
        _print(inspect(model, target, batch=batch).table())


@cli.command("explain", epilog=_examples("explain net.onnx --input digit.png --out maps/"))
@click.argument("model", metavar="MODEL_OR_BUNDLE", type=PATH, callback=_there)
@_input
@click.option("--method", type=_METHOD, default="deeplift", show_default=True, help="How to explain.")
@_method_options
@click.option("--out", type=PATH, required=True, help="Folder to write to. Example: maps/")
@_board_options
def explain_command(model: Path, source: Path, method: str, settings: Any, out: Path, board: Board | None) -> None:
    """Write heat maps of what each input element adds.

    And contributions.npz. A picture for each of up to 12 items, sheets of 40 for more. A MODEL is built first, as for
    `run`; a BUNDLE gives the explanation that it was built with.
    """
    from tvm_lowbit.heatmap import write_heatmaps  # matplotlib takes a second that other commands need not wait

    if model.is_dir() and settings:
        raise click.UsageError("a bundle's explanation was fixed when it was built: leave out --reference and --class")
    artifact = _artifact(model, board, [METHODS[method](**settings)])
    name = next((row.name for row in artifact.manifest.explanations if row.method == method), None)
    if name is None:
        raise LowbitError(f"bundle {model}", f"an explanation by {method}", "none", f"build it with --explain {method}")
    inputs, result = _run(artifact, source, board)
    written = write_heatmaps(out, inputs, result, name)
    write_arrays(out / "contributions.npz", arrays_of(result))
    _print(predictions(result))
    click.echo(f"in {out}: {', '.join(path.name for path in written)}, contributions.npz")


@cli.command("demo", epilog=_examples("demo", "demo --no-emulated --out /tmp/demo"))
@click.option("--out", type=PATH, default=Path("out"), show_default=True, help="Folder to write to. Example: out/demo")
@click.option("--emulated/--no-emulated", default=True, show_default=True, help="Run a sample on an emulated Arm too.")
def demo_command(out: Path, emulated: bool) -> None:
    """Build the digits example, run it here and on emulated Arm.

    Measures it against ONNX Runtime and its float32 twin; writes a sheet of digits and a bundle. Needs a checkout of
    the repository and pip install 'tvm_lowbit[cross,demo]'. Exit code 1: something promised does not hold, or the
    emulator is missing and the environment variable CI is set.
    """
    from tvm_lowbit.demo import run_demo

    with _progress("demo", lines=True) as (step, detail):
        demo = run_demo(out, emulated, step, detail)
    _print(*demo.tables())
    click.echo(demo.written)
    raise click.exceptions.Exit(0 if demo.holds and not (demo.skipped and os.environ.get("CI")) else 1)


def _artifact(model: Path, board: Board | None, methods: Sequence[DeepLift] = ()) -> Artifact:
    """A bundle as it is, or a model built for where it will run."""
    if not model.is_dir():
        with _progress("build") as (step, _):
            return build(model, "host" if board is None else "arm_cpu", explain=methods, progress=step)
    artifact = load(model)
    if board is None and not artifact.is_host:
        hint = "run it on a board: --emulated cortex-a72, or --board HOST:PORT"
        raise LowbitError(f"bundle {model}", "a library for this machine", artifact.manifest.mtriple, hint)
    return artifact


def _run(artifact: Artifact, source: Path, board: Board | None) -> tuple[Any, Result]:
    """The first input, and the result."""
    inputs = read_inputs(source, artifact.manifest)
    with _progress("run") as (_, detail):
        result = artifact.run(inputs, board, lambda done, total: detail(f"{done} of {total}"))
    return inputs[artifact.manifest.inputs[0].name] if isinstance(inputs, dict) else inputs, result


@contextmanager
def _progress(what: str, lines: bool = False) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A spinner for a terminal, to be told the step and what of it; elsewhere ``lines``: steps on stderr."""
    console, current = Console(), what
    with console.status(what) as status:

        def step(name: str) -> None:
            nonlocal current
            current = f"{what}: {name}"
            status.update(escape(current))
            if lines and not console.is_terminal:
                click.echo(f"{name} ...", err=True)

        yield step, lambda text: status.update(escape(f"{current}: {text}"))


def _print(*tables: Any) -> None:
    # Into a file or pipe, tables are as wide as those of `str(report)`.
    console = Console(width=None if Console().is_terminal or "COLUMNS" in os.environ else 140)
    for table in tables:
        console.print(table)


def _plain(text: str) -> str:
    """Without control characters, which names in a model may hold and a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def main() -> None:
    """Run the command line; the entry point of ``tvm-lowbit``."""
    cli(prog_name="tvm-lowbit")
