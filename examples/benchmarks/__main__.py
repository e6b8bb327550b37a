"""Measure whole networks against plain TVM, and write the tables: ``python -m benchmarks --help``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import networks
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.tables import markdown

VERSIONS = ("tvm_lowbit", "apache-tvm", "apache-tvm-ffi", "torch", "brevitas", "onnx", "numpy")
ARM = ("cortex-a72", "cortex-a76", "cortex-a53")
# What is measured of each network on each core, in this order.
VARIANTS = ("w2a2", "fp32", "tuned", "int8")
HOST = "host"


@dataclass(frozen=True)
class Task:
    """One row of the results: its key, the arguments of `benchmarks.job` that make it, and the row that it needs."""

    key: str
    arguments: tuple[str, ...]
    after: str | None = None


def tasks(
    chosen: tuple[str, ...], cores: tuple[str, ...], variants: tuple[str, ...], trials: int, small: bool, seed: int
) -> Iterator[Task]:
    """What to measure, the most telling first.

    Schedules are searched for the first core only, and compiled for all.
    """

    def making(network: str) -> tuple[str, ...]:
        row = networks.NETWORKS[network]
        size, width = (row.small_size, row.small_width) if small else (row.size, 1.0)
        return (f"--size={size}", f"--width={width}", f"--seed={seed}")

    for core in cores:
        for variant in (variant for variant in VARIANTS if variant in variants):
            for network in chosen:
                if variant == "tuned" and core == cores[0]:
                    arguments = ("search", network, core, *making(network), f"--trials={trials}")
                    yield Task(f"{network}/{core}/search", arguments)
                after = f"{network}/{cores[0]}/search" if variant == "tuned" else None
                yield Task(f"{network}/{core}/{variant}", ("meter", network, variant, core, *making(network)), after)
    if HOST in variants:
        for network in chosen:
            yield Task(f"{network}/{HOST}", (HOST, network, *making(network)))


def run(arguments: tuple[str, ...], folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """What a process of `benchmarks.job` printed last, or its last words under ``error``."""
    command = [sys.executable, "-m", "benchmarks.job", *arguments, f"--folder={folder}"]
    said = folder / "job.log"
    last = ""
    with said.open("w+") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as job:
        assert job.stdout is not None
        for line in job.stdout:
            last = line.strip()
            if not last.startswith("{"):
                tell(last)
    if job.returncode:
        return {"error": (said.read_text().strip().splitlines() or ["no message"])[-1]}
    return dict(json.loads(last))


def _load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _choice(names: Any) -> Any:
    return click.Choice(list(names))


@click.command()
@click.option("--network", "chosen", multiple=True, type=_choice(networks.NETWORKS), help="Default: all.")
@click.option("--core", "cores", multiple=True, type=_choice(ARM), help="Default: all. Schedules are of the first.")
@click.option("--what", "variants", multiple=True, type=_choice((*VARIANTS, HOST)), help="Default: all.")
@click.option("--trials", type=int, default=8, show_default=True, help="Candidates for each kernel of plain TVM.")
@click.option("--small", is_flag=True, help="The narrow networks of the tests. Default: full size.")
@click.option("--seed", type=int, default=networks.SEED, show_default=True, help="Of weights, images and searches.")
@click.option("--again", is_flag=True, help="Measure what is there already too. Default: no.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/benchmarks"),
    show_default=True,
    help="Folder for results.json, models and schedules.",
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tables, and results beside them. Default: in --out.",
)
def main(
    chosen: tuple[str, ...],
    cores: tuple[str, ...],
    variants: tuple[str, ...],
    trials: int,
    small: bool,
    seed: int,
    again: bool,
    out: Path,
    docs: Path | None,
) -> None:
    """Estimate networks as built here and by plain TVM, time layers on this machine, write tables.

    Each row is kept as soon as it is there; a run that was ended goes on where it was. Exit code 1: a row failed.
    """
    cores, variants = cores or ARM, variants or (*VARIANTS, HOST)
    plan = list(tasks(chosen or tuple(networks.NETWORKS), cores, variants, trials, small, seed))
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "results.json"
    rows: dict[str, Any] = _load(kept).get("rows", {})
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    failed, renewed = [], set()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(plan))
        for task in plan:
            wanted = list(task.arguments)
            there = rows.get(task.key, {})
            if again or there.get("arguments") != wanted or "error" in there or task.after in renewed:

                def tell(text: str, key: str = task.key) -> None:
                    progress.update(bar, description=f"{key}: {text}")

                renewed.add(task.key)
                tell("begin")
                rows[task.key] = {"arguments": wanted} | run(task.arguments, out, tell)
                progress.console.print(f"{task.key}: {_line(rows[task.key])}", markup=False, highlight=False)
            if "error" in rows[task.key]:
                failed.append(task.key)
            progress.advance(bar)
            _write(kept, docs or out / "benchmarks.md", rows, seed)
    click.echo(f"{len(plan) - len(failed)} of {len(plan)} measured; see {docs or out / 'benchmarks.md'}")
    raise SystemExit(bool(failed))


def _write(kept: Path, table: Path, rows: dict[str, Any], seed: int) -> None:
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in VERSIONS}}
    result = {"seed": seed, "versions": versions, "rows": rows}
    draft = kept.with_suffix(".part")
    text = json.dumps(result, indent=1) + "\n"
    draft.write_text(text)
    draft.replace(kept)
    table.write_text(markdown(result))
    if table.parent != kept.parent:
        table.with_suffix(".json").write_text(text)


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"failed: {row['error']}"
    figures = f"{row['estimated_cycles'] / 1e6:,.1f} million cycles (estimate), " if "estimated_cycles" in row else ""
    return f"{figures}{row['seconds']:.0f} s"


if __name__ == "__main__":
    main()
