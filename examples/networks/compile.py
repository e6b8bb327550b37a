"""Compile every network, in every scheme, from every exporter, and measure: ``python -m networks.compile --help``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import networks
from networks.export import EXPORTERS
from networks.quantise import SCHEMES

MAX_SECONDS, MAX_GIB = 180.0, 4.0
# A build that takes so much longer than it may is ended.
PATIENCE = 3
VERSIONS = ("tvm_lowbit", "apache-tvm", "torch", "brevitas", "onnx", "numpy")


def job(*arguments: str) -> dict[str, Any]:
    """What a process of `networks.job` printed, or its last words under ``error``."""
    command = [sys.executable, "-m", "networks.job", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"ended after {PATIENCE * MAX_SECONDS:g} seconds"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure(
    combinations: list[tuple[str, str, str]], target: str, seed: int, small: bool
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """What is done next, and the row that it gave."""
    for names in combinations:
        row = networks.NETWORKS[names[0]]
        size, width = (row.small_size, row.small_width) if small else (row.size, 1.0)
        layers = networks.layers(names[0], names[1], width=width, size=size)
        done = dict(zip(("network", "scheme", "exporter"), names, strict=True)) | {"size": size, "layers": layers}
        with tempfile.TemporaryDirectory(prefix="networks_") as folder:
            file = Path(folder) / "model.onnx"
            given = (*names, f"--width={width}", f"--size={size}", f"--seed={seed}", f"--file={file}")
            written: dict[str, Any] = {}
            if EXPORTERS[names[2]].file:
                yield f"{' '.join(names)}: export", None
                written = job("write", *given)
            if "error" not in written:
                yield f"{' '.join(names)}: build", None
                written = job("build", *given, f"--target={target}")
        yield "", done | written


def holds(row: dict[str, Any]) -> bool:
    """Whether every quantised layer is low-bit, within the limits of time and memory."""
    low = "error" not in row and row["low_bit"] == row["layers"]
    return low and row["seconds"] <= MAX_SECONDS and row["peak_gib"] <= MAX_GIB


def markdown(result: dict[str, Any]) -> str:
    """The table for people; what stays float is listed below it."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"Target {result['target']}, seed {result['seed']}, {result['cores']} cores; {versions}.",
        f"Limits: every quantised layer low-bit, {MAX_SECONDS:g} seconds, {MAX_GIB:g} GiB.",
        "Written by `python -m networks.compile`.",
        "",
        "| network | scheme | exporter | pixels | low-bit layers | seconds | GiB | bundle MB | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reasons: dict[str, list[str]] = {}
    for row in result["rows"]:
        names = f"{row['network']} | {row['scheme']} | {row['exporter']}"
        if "error" in row:
            lines.append(f"| {names} | | {row['error']} | | | | no |")
            continue
        cells = (
            f"{row['low_bit']} of {row['layers']}",
            f"{row['seconds']:.0f}",
            f"{row['peak_gib']:.2f}",
            f"{row['bundle_bytes'] / 1e6:.1f}",
            "yes" if holds(row) else "no",
        )
        lines.append(f"| {names} | {row['size']} | {' | '.join(cells)} |")
        for reason in (*row["float_layers"].values(), *row["float_between"].values()):
            reasons.setdefault(reason, []).append(f"{row['network']} {row['scheme']} {row['exporter']}")
    if reasons:
        lines += ["", "What stays float, and why:", ""]
        for reason, where in sorted(reasons.items()):
            lines.append(f"- {reason} ({len(where)} operators, first in {where[0]})")
    return "\n".join(lines) + "\n"


def _choice(names: Any) -> Any:
    return click.Choice(list(names))


@click.command()
@click.option("--network", "chosen", multiple=True, type=_choice(networks.NETWORKS), help="Default: all.")
@click.option("--scheme", "schemes", multiple=True, type=_choice(SCHEMES), help="Default: all.")
@click.option("--exporter", "exporters", multiple=True, type=_choice(EXPORTERS), help="Default: all.")
@click.option("--target", default="rpi4", show_default=True, help="As for tvm-lowbit build. Example: arm_cpu")
@click.option("--small", is_flag=True, help="The narrow networks of the tests. Default: full size.")
@click.option("--seed", type=int, default=networks.SEED, show_default=True, help="Of weights and images.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/networks"),
    show_default=True,
    help="Folder for results.json and results.md.",
)
def main(
    chosen: tuple[str, ...],
    schemes: tuple[str, ...],
    exporters: tuple[str, ...],
    target: str,
    small: bool,
    seed: int,
    out: Path,
) -> None:
    """Compile networks at full size; check that layers are low-bit, measure seconds and memory.

    Writes after every build; the same command goes on where it was ended, and tries again what does not hold. Exit
    code 1: a row does not hold.
    """
    combinations = list(product(chosen or networks.NETWORKS, schemes or SCHEMES, exporters or EXPORTERS))
    result: dict[str, Any] = {
        "seed": seed,
        "target": target,
        "small": small,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in VERSIONS}},
    }
    out.mkdir(parents=True, exist_ok=True)
    result["rows"] = rows = _kept(out / "results.json", result)
    combinations = [names for names in combinations if names not in {_names(row) for row in rows}]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(combinations))
        for what, row in measure(combinations, target, seed, small):
            if row is None:
                progress.update(task, description=what)
                continue
            rows.append(row)
            progress.advance(task)
            progress.console.print(_line(row), markup=False, highlight=False, soft_wrap=True)
            (out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
            (out / "results.md").write_text(markdown(result))
    failed = [row for row in rows if not holds(row)]
    click.echo(f"{len(rows) - len(failed)} of {len(rows)} hold; see {out / 'results.md'}")
    raise SystemExit(bool(failed))


def _names(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["network"], row["scheme"], row["exporter"]


def _kept(path: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that hold of an earlier run like this one."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    rows = earlier.pop("rows")
    return [row for row in rows if holds(row)] if earlier == result else []


def _line(row: dict[str, Any]) -> str:
    names = " ".join(_names(row))
    if "error" in row:
        return f"{names}: {row['error']}"
    return f"{names}: {row['low_bit']} of {row['layers']} low-bit, {row['seconds']:.0f} s, {row['peak_gib']:.2f} GiB"


if __name__ == "__main__":
    main()
