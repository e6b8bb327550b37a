"""One measurement, in a process of its own: lines of progress, and last one line of JSON."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from networks.calibrate import images

import tvm_lowbit
from benchmarks.plain import compile_fused, float_convolutions, fused_module
from benchmarks.sources import write_model
from benchmarks.tuned import Schedules, key_of, tune
from schedules.cores import CORES, CoreSpec
from tvm_lowbit.boards.rows import BOARDS
from tvm_lowbit.metering.models import ModelEstimate, meter_library, meter_model

PATH = click.Path(path_type=Path)
# An emulator that runs longer is ended: a network, a candidate of a search.
PATIENCE, CANDIDATE_PATIENCE = 3600.0, 30.0
# Networks whose misses are counted without schedules too, where each product loads and stores several times: the others
# would take an hour.
SMALL = ("resnet18", "mobilenet_v2")
# Kernels that are searched for schedules; what else a network does is a few per cent of it.
SEARCHED = ("conv2d", "matmul", "dense")


@click.group()
def cli() -> None:
    """Measure one thing."""
    logging.disable(logging.WARNING)


def _making(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--folder", type=PATH, required=True, help="Where models and schedules are kept."),
        click.option("--seed", type=int, required=True, help="Of weights and images."),
        click.option("--size", type=int, required=True, help="Pixels of a side."),
        click.option("--width", type=float, required=True, help="Multiplies channels."),
        click.argument("network"),
    ):
        command = option(command)
    return command


def _model(kind: str, folder: Path, network: str, size: int, width: float, seed: int) -> Path:
    path = folder / "models" / f"{network}-{kind}-{size}-{width:g}-{seed}.onnx"
    return write_model(network, kind, path, size=size, width=width, seed=seed)


@cli.command()
@_making
@click.argument("variant", type=click.Choice(["w2a2", "fp32", "tuned", "int8"]))
@click.argument("core", type=click.Choice(list(CORES)))
def meter(network: str, variant: str, core: str, size: int, width: float, seed: int, folder: Path) -> None:
    """Estimate NETWORK: as we build it (w2a2), or as plain TVM does, with its default or with tuned schedules."""
    began = time.perf_counter()
    click.echo("export")
    path = _model("fp32" if variant == "tuned" else variant, folder, network, size, width, seed)
    spec = CORES[core]
    if variant == "w2a2":
        result = _ours(path, spec)
    else:
        click.echo("compile")
        mod = fused_module(path, spec)
        schedules = Schedules(folder / "schedules.jsonl")
        caches = variant == "tuned" or network in SMALL
        result = _plain(mod, spec, images(size, seed).numpy(), schedules if variant == "tuned" else None, caches)
    click.echo(json.dumps(result | {"seconds": round(time.perf_counter() - began, 1)}))


def _ours(path: Path, core: CoreSpec) -> dict[str, Any]:
    click.echo("build")
    board = next(row.name for row in BOARDS.values() if row.core == core.name and row.clock)
    artifact = tvm_lowbit.build(path, board)
    click.echo("emulate")
    result = _figures(meter_model(artifact, patience=PATIENCE), core)
    two = [row for row in artifact.report.low_bit if row.bits.startswith("W2")]
    result["two_bit_bytes"], result["two_bit_float_bytes"] = (
        sum(row.bytes for row in two),
        sum(row.float_bytes for row in two),
    )
    return result


def _plain(mod: Any, core: CoreSpec, inputs: Any, schedules: Schedules | None, caches: bool) -> dict[str, Any]:
    in_float, in_integers = float_convolutions(mod)
    wanted = {key_of(mod[name]) for name in mod.functions if _searched(name.name_hint)}
    with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder:
        library = Path(folder) / "plain.so"
        compile_fused(mod, core, library, None if schedules is None else schedules.scheduled)
        click.echo("emulate")
        # Its loops do not depend on values, and it is slow: the call before the one that counts is left out.
        result = _figures(meter_library(library, [inputs], core, caches=caches, patience=PATIENCE, warm=False), core)
    result |= {"float_kernels": in_float, "integer_kernels": in_integers}
    if schedules is not None:
        rows = [schedules.rows[key] for key in wanted if key in schedules.rows]
        result |= {
            "kernels_searched": len(rows),
            "kernels_to_search": len(wanted),
            "trials": sum(row["trials"] for row in rows),
            "without_schedule": sum(row["trace"] is None for row in rows),
            "tuned_for": sorted({row["core"] for row in rows}),
        }
    return result


def _searched(name: str) -> bool:
    return any(word in name for word in SEARCHED)


def _figures(found: ModelEstimate, core: CoreSpec) -> dict[str, Any]:
    total, traffic = found.total, found.total.traffic
    result: dict[str, Any] = {
        "estimated_cycles": total.cycles,
        "estimated_cycles_without_latencies": total.throughput,
        "instructions": total.instructions,
        "bytes_loaded": total.loaded,
        "bytes_stored": total.stored,
        "library_bytes": found.library,
        "memory_bytes": found.memory,
    }
    if traffic is not None:
        result |= {
            "working_set_bytes": traffic.lines * 64,
            "l1_misses": traffic.l1_misses,
            "l2_misses": traffic.l2_misses,
            "estimated_cycles_with_misses": None if core.miss is None else total.cycles + core.miss * traffic.l1_misses,
        }
    return result


@cli.command()
@_making
@click.argument("core", type=click.Choice(list(CORES)))
@click.option("--trials", type=int, required=True, help="Candidates for each kernel.")
def search(network: str, core: str, size: int, width: float, seed: int, folder: Path, trials: int) -> None:
    """Search schedules for the kernels of plain TVM's fp32 NETWORK; those that are known are left."""
    began = time.perf_counter()
    click.echo("export")
    spec = CORES[core]
    mod = fused_module(_model("fp32", folder, network, size, width, seed), spec)
    schedules = Schedules(folder / "schedules.jsonl")
    wanted = {key_of(mod[name]): (name.name_hint, mod[name]) for name in mod.functions if _searched(name.name_hint)}
    missing = [(name, function) for key, (name, function) in wanted.items() if not schedules.holds(key, trials)]
    for i, (name, function) in enumerate(missing):
        where = f"{name} ({i + 1} of {len(missing)})"
        click.echo(where)

        def tell(text: str, where: str = where) -> None:
            click.echo(f"{where}: {text}")

        schedules.add(tune(function, spec, trials, seed, CANDIDATE_PATIENCE, tell))
    rows = [schedules.rows[key] for key in wanted]
    result = {
        "kernels": len(rows),
        "trials": sum(row["trials"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "wrong": sum(row["wrong"] for row in rows),
        "seconds": round(time.perf_counter() - began, 1),
    }
    click.echo(json.dumps(result))


@cli.command()
@_making
def host(network: str, size: int, width: float, seed: int, folder: Path) -> None:
    """Time the low-bit layers of NETWORK on this machine in pairs with plain TVM's fp32."""
    from benchmarks.host import pair_layers

    began = time.perf_counter()
    click.echo("export")
    paths = [_model(kind, folder, network, size, width, seed) for kind in ("w2a2", "fp32")]
    rows = pair_layers(*paths, np.asarray(images(size, seed)), click.echo)
    machine = {"load": round(os.getloadavg()[0], 1), "cores": len(os.sched_getaffinity(0))}
    click.echo(json.dumps({"layers": rows, "seconds": round(time.perf_counter() - began, 1)} | machine))


if __name__ == "__main__":
    cli()
