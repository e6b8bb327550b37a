"""Arguments and options that several commands share, and the lists below their help."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from relay_passes.attribution.methods import METHODS, Method
from tvm_lowbit import Difference, LowbitError, MinusMean
from tvm_lowbit.boards import EmulatedBoard, RpcBoard
from tvm_lowbit.boards.rows import BOARDS
from tvm_lowbit.cli import reference as references

PATH = click.Path(path_type=Path)


def there(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Callback of an argument that must exist: a file or a bundle's folder.

    Raises
    ------
    LowbitError
        If there is nothing.
    """
    if not value.exists():
        raise LowbitError(str(value), "an ONNX file or a bundle", "nothing there", "is the path right?")
    return value


def _class(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """A target: ``3``, ``argmax``, ``8-3`` (one class less another), ``3-mean`` (less the mean of all)."""
    if value is None or value == "argmax":
        return value
    plus, less, minus = value.partition("-")
    if less and minus == "mean" and (plus == "argmax" or plus.isdecimal()):
        return MinusMean(plus if plus == "argmax" else int(plus))
    if not plus.isdecimal() or (less and not minus.isdecimal()):
        raise click.BadParameter(f"{value!r} is none of: a class index, argmax, 8-3, 3-mean")
    return Difference(int(plus), int(minus)) if less else int(plus)


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    host, _, port = (value or "").rpartition(":")
    if value is not None and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, for example 192.168.1.20:9090")
    return (host.strip("[]"), int(port)) if value is not None else None


def rows_of(title: str, rows: Mapping[str, str]) -> str:
    """A table's names and what they mean, for the end of a command's help."""
    width = max(map(len, rows))
    return "\b\n" + "\n".join([f"{title}:", *(f"  {name:{width}}  {text}" for name, text in rows.items())]) + "\n\n"


def examples(*lines: str) -> str:
    """Ways to call a command, for the end of its help."""
    return "\b\n" + "\n".join(("Examples:", *(f"  tvm-lowbit {line}" for line in lines)))


TARGETS = rows_of("Targets", {row.name: row.help for row in BOARDS.values()})
REFERENCES = rows_of("References", references.ROWS)
_LAYER_HELP = "A layer to explain, too; may be given again. Default: the method's. Example: conv1"
_CLASS_HELP = "Class to explain, also 8-3: 8 less 3; 3-mean: less the mean of all. Default: argmax. Example: 3"
METHOD = click.Choice(list(METHODS))
_BOARD_HELP = "Run on a board's RPC server. Default: here. Example: 192.168.1.20:9090"
model_argument = click.argument("model", type=PATH, callback=there)
target_option = click.option("--target", default="arm_cpu", show_default=True, help="A name below. Example: rpi4")
batch_option = click.option(
    "--batch", type=int, default=1, show_default=True, help="Items computed in one call. Example: 8"
)
_exclude_help = "A layer that stays float; may be given again. Default: none. Example: conv1"
exclude_option = click.option("--exclude", multiple=True, metavar="LAYER", help=_exclude_help)
_input_help = ".npy of float32 (N, ...); .npz, an array per input; .png or .jpg, one item, scaled to 0..1"
input_option = click.option("--input", "source", type=PATH, required=True, metavar="FILE", help=_input_help)


def board_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose a board; the command gets ``board``."""

    @click.option("--emulated", metavar="CPU", help="Run on an emulated Arm. Default: here. Example: cortex-a72")
    @click.option("--board", "address", callback=_address, metavar="HOST:PORT", help=_BOARD_HELP)
    @click.option("--key", default="", help="Key of that server. Default: none. Example: rpi4")
    @functools.wraps(command)
    def wrapped(emulated: str | None, address: tuple[str, int] | None, key: str, **rest: Any) -> None:
        if emulated is not None and address is not None:
            raise click.UsageError("--emulated and --board exclude each other")
        remote = RpcBoard(*address, key=key) if address is not None else None
        command(board=EmulatedBoard(emulated) if emulated is not None else remote, **rest)

    return wrapped


def method_options(command: Callable[..., None]) -> Callable[..., None]:
    """What an explanation is asked for with; the command gets ``settings``, those given; see `method_of`."""

    @click.option("--reference", metavar="VALUE", help=references.HELP)
    @click.option("--class", "index", callback=_class, metavar="CLASS", help=_CLASS_HELP)
    @click.option("--rule", metavar="NAME", help="Rule of the method. Default: the method's. Example: reveal_cancel")
    @click.option("--steps", type=int, help="Steps or samples. Default: the method's. Example: 50")
    @click.option("--layer", "layers", multiple=True, metavar="NAME|all", help=_LAYER_HELP)
    @functools.wraps(command)
    def wrapped(
        reference: str | None,
        index: Any,
        rule: str | None,
        steps: int | None,
        layers: tuple[str, ...],
        **rest: Any,
    ) -> None:
        given = {"reference": reference, "target": index, "rule": rule, "steps": steps, "layers": layers or None}
        command(settings={name: value for name, value in given.items() if value is not None}, **rest)

    return wrapped


# What an option is called where a method has no field of its name: the number of runs, the one layer.
_CALLED = {"steps": ("steps", "samples"), "layers": ("layers", "layer")}
_OPTION = {"target": "class", "layers": "layer"}


def takes(method: str, setting: str) -> str | None:
    """The field of a method that a setting of the command line goes to, or None."""
    names = {field.name for field in dataclasses.fields(METHODS[method])}
    return next((name for name in _CALLED.get(setting, (setting,)) if name in names), None)


def method_of(name: str, settings: Mapping[str, Any], model: Path) -> Method:
    """The method with the settings given, for an ONNX file.

    Raises
    ------
    click.UsageError
        If it has no such setting, or lacks one that it needs.
    LowbitError
        If a setting does not fit.
    """
    arguments = {}
    for setting, value in settings.items():
        field = takes(name, setting)
        if field is None:
            raise click.UsageError(f"{name} takes no --{_OPTION.get(setting, setting)}")
        if setting == "reference":
            value = references.reference_of(value, model)
        arguments[field] = value[0] if field == "layer" and len(value) == 1 else value
    needed = [
        field.name
        for field in dataclasses.fields(METHODS[name])
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [field for field in needed if field not in arguments]
    if missing:
        option = "layer" if missing[0].startswith("layer") else missing[0]
        raise click.UsageError(f"{name} needs --{option}; `tvm-lowbit inspect` lists the layers")
    return METHODS[name](**arguments)
