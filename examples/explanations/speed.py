"""Prediction with its explanation against prediction alone: ``PYTHONPATH=.:examples python -m explanations.speed``.

Both are compiled for this machine and called in turns, on one thread: alone, explained, alone, explained. Each pair
gives one ratio, so what else the machine does falls on both.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import numpy as np

os.environ["TVM_NUM_THREADS"] = "1"  # read when TVM starts its threads, at the first kernel that asks for some

import tvm
from benchmarks.sources import write_model
from networks import NETWORKS, SEED
from networks.calibrate import images
from rich.console import Console
from rich.table import Table
from tvm import relax

import tvm_lowbit
from tvm_lowbit.quiet import without_scope_warnings

VERSIONS = ("tvm_lowbit", "apache-tvm", "torch", "onnx", "numpy")
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Method:
    """One row: its name, what is compiled in beside the prediction, and the most that the ratio may be."""

    name: str
    make: Callable[[], Any]
    limit: float


# The last activations of ResNet-18 with pixels; other networks have no layer of this name.
LATE = "/12/activation/activation.0/Relu"
_ROWS = (
    Method("deeplift_rescale", lambda: tvm_lowbit.DeepLift(), 2.5),
    Method("deeplift_genomics", lambda: tvm_lowbit.DeepLift(rule="genomics"), 4.0),
    Method("conductance_50", lambda: tvm_lowbit.Conductance(LATE, steps=50), 60.0),
)
METHODS: Mapping[str, Method] = MappingProxyType({row.name: row for row in _ROWS})


@dataclass(frozen=True)
class Compiled:
    """A library of this machine, ready to be called."""

    artifact: Any
    call: Callable[[], Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the linked library, and at most held while it runs, weights aside."""
        return {"library": self.artifact.library().stat().st_size, "peak": self.artifact.manifest.memory.peak}


def compiled(model: Path, explain: list[Any], x: Any) -> Compiled:
    """Build a model for this machine and call it once."""
    artifact = tvm_lowbit.build(model, "host", explain=explain)
    with without_scope_warnings():
        main = relax.VirtualMachine(tvm.runtime.load_module(str(artifact.library())), tvm.cpu())["main"]
    given = tvm.runtime.tensor(x)
    main(given)
    return Compiled(artifact, lambda: main(given))


def ratios(alone: Callable[[], Any], explained: Callable[[], Any], pairs: int) -> dict[str, Any]:
    """Seconds of both in turns.

    Returns
    -------
    dict
        Median milliseconds of both, the median of the ratios of pairs, and their quartiles.
    """
    times = np.array([[_seconds(alone), _seconds(explained)] for _ in range(pairs)])
    low, middle, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    alone_ms, explained_ms = np.median(times, axis=0) * 1e3
    return {
        "alone_ms": float(alone_ms),
        "explained_ms": float(explained_ms),
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "pairs": pairs,
    }


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(network: str, kind: str, method: Method, *, size: int, width: float, pairs: int, cache: Path) -> Any:
    """One row of the result.

    Parameters
    ----------
    network, kind : str
        As `benchmarks.sources.write_model` takes them.
    method : Method
        What to compile in.
    size, width
        Pixels of a side, and a factor of channels.
    pairs : int
        How many times both are called.
    cache : Path
        Folder of the models, written where they are missing.
    """
    model = cache / f"{network}_{kind}_{size}_{width:g}.onnx"
    write_model(network, kind, model, size=size, width=width, seed=SEED)
    x = images(size, SEED).numpy()[:1].astype(np.float32)
    alone, explained = compiled(model, [], x), compiled(model, [method.make()], x)
    (explanation,) = explained.artifact.run(x).explanations.values()
    every = [explanation.values, *explanation.layers.values()]
    return {
        "network": network,
        "kind": kind,
        "method": method.name,
        "limit": method.limit,
        **ratios(alone.call, explained.call, pairs),
        "gap": max(float(np.abs(values["gap"]).max()) for values in every if "gap" in values),
        "bytes_alone": alone.sizes,
        "bytes_explained": explained.sizes,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows, to print."""
    shown = Table("network", "kind", "method", "alone ms", "explained ms", "ratio", "quartiles", "limit", "library MB")
    for row in rows:
        low, high = row["quartiles"]
        times = (f"{row[key]:.1f}" for key in ("alone_ms", "explained_ms"))
        sizes = " > ".join(f"{row[key]['library'] / 1e6:.1f}" for key in ("bytes_alone", "bytes_explained"))
        names = (row["network"], row["kind"], row["method"])
        shown.add_row(*names, *times, f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}", f"{row['limit']:g}", sizes)
    return shown


@click.command()
@click.option("--network", default="resnet18", type=click.Choice(sorted(NETWORKS)), help="Which network.")
@click.option("--kind", "kinds", multiple=True, default=("fp32", "w2a2"), help="fp32 or w2a2; may be repeated.")
@click.option("--method", "methods", multiple=True, default=tuple(METHODS), type=click.Choice(sorted(METHODS)))
@click.option("--pairs", default=21, type=click.IntRange(1), help="How many times both are called.")
@click.option("--size", default=224, type=click.IntRange(1), help="Pixels of a side.")
@click.option("--width", default=1.0, type=float, help="A factor of channels.")
@click.option("--cache", default=Path("out/explanations"), type=PATH, help="Folder of the models.")
@click.option("--out", default=Path("out/explanations/speed.json"), type=PATH, help="What to write.")
def main(
    network: str,
    kinds: tuple[str, ...],
    methods: tuple[str, ...],
    pairs: int,
    size: int,
    width: float,
    cache: Path,
    out: Path,
) -> None:
    """Time prediction with an explanation against prediction alone, and write both as JSON."""
    given = {"size": size, "width": width, "pairs": pairs, "cache": cache}
    rows = [measure(network, kind, METHODS[name], **given) for kind in kinds for name in methods]
    machine = {"machine": platform.machine(), "core": processor(), "threads": 1, "seed": SEED}
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"rows": rows, **machine, "versions": versions}, indent=2) + "\n")
    Console().print(table(rows))


def processor() -> str:
    """LLVM's name of this machine's processor."""
    return str(tvm.get_global_func("target.llvm_get_system_cpu")())


if __name__ == "__main__":
    main()
