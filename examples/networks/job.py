"""The two halves of a measurement, each run in a process of its own so that its memory is its own."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
# Operators that multiply by weights: the layers that must be low-bit.
MULTIPLYING = ("relax.nn.conv2d", "relax.matmul")


@click.group()
def cli() -> None:
    """Write a network, or build one; each prints one line of JSON."""


def _making(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which network."""
    for option in (
        click.option("--seed", type=int, required=True, help="Of weights and images."),
        click.option("--size", type=int, required=True, help="Pixels of a side."),
        click.option("--width", type=float, required=True, help="Multiplies channels."),
        click.argument("exporter"),
        click.argument("scheme"),
        click.argument("network"),
    ):
        command = option(command)
    return command


@cli.command()
@_making
@click.option("--file", type=PATH, required=True, help="What to write.")
def write(network: str, scheme: str, exporter: str, width: float, size: int, seed: int, file: Path) -> None:
    """Make NETWORK in SCHEME and write it with EXPORTER."""
    _export(network, scheme, exporter, width, size, seed, file)
    click.echo(json.dumps({}))


@cli.command()
@_making
@click.option("--file", type=PATH, required=True, help="What `write` wrote; where there is none, it is exported first.")
@click.option("--target", required=True, help="As for tvm-lowbit build.")
def build(
    network: str, scheme: str, exporter: str, width: float, size: int, seed: int, file: Path, target: str
) -> None:
    """Build and link; say how long it took, how much memory, and what stayed float."""
    import tvm_lowbit

    model: Any = file if file.exists() else _export(network, scheme, exporter, width, size, seed, file)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    starts: dict[str, float] = {}
    began, cpu = time.perf_counter(), time.process_time()

    def step(name: str) -> None:
        if not getattr(name, "layer", ""):
            starts[str(name)] = time.perf_counter()

    artifact = tvm_lowbit.build(model, target, progress=step)
    step("link")
    with tempfile.TemporaryDirectory() as folder:
        bundle = artifact.save(Path(folder) / "bundle")
        bundle_bytes = sum(path.stat().st_size for path in bundle.iterdir())
    ended = time.perf_counter()
    ends = [*list(starts.values())[1:], ended]
    low, rows = artifact.report.low_bit, artifact.report.stays_float
    result = {
        "low_bit": sum(row.op in MULTIPLYING for row in low),
        "float_layers": {row.name: row.reason for row in rows if row.op in MULTIPLYING},
        "float_between": {row.name: f"{row.op}: {row.reason}" for row in rows if row.op not in MULTIPLYING},
        "seconds": round(ended - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gib": round(_peak() / 2**30, 2),
        "bundle_bytes": bundle_bytes,
        "phases": {name: round(end - start, 2) for (name, start), end in zip(starts.items(), ends, strict=True)},
    }
    click.echo(json.dumps(result))


def _export(network: str, scheme: str, exporter: str, width: float, size: int, seed: int, file: Path) -> Any:
    import networks
    from networks.calibrate import images
    from networks.export import EXPORTERS

    logging.disable(logging.WARNING)
    made = networks.make(network, scheme, width=width, size=size, seed=seed)
    return EXPORTERS[exporter].write(made, images(size, seed), file)


def _peak() -> int:
    """Largest resident size of this process in bytes; ``getrusage`` would count the parent's before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    cli()
