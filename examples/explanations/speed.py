"""Prediction with its explanation against prediction alone: ``PYTHONPATH=.:examples python -m explanations.speed``.

Both are compiled for this machine and called in turns, on one thread: alone, explained, alone, explained; where Captum
has the method, torch's prediction alone and Captum's explanation follow in each turn. Each pair gives one ratio, so
what else the machine does falls on both.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
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
from explanations import captum_calls
from explanations.speed_page import HEAD, cells, markdown
from tvm_lowbit.quiet import without_scope_warnings

VERSIONS = ("tvm_lowbit", "apache-tvm", "torch", "captum", "onnx", "numpy")
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes
    ----------
    name : str
        What it is called.
    make : callable
        Gives what is compiled in beside the prediction.
    limit : float, optional
        The most that the ratio may be.
    captum : callable, optional
        The same by Captum: see `captum_calls.calls`.
    slow : bool
        Whether it takes seconds: fewer pairs are timed.
    """

    name: str
    make: Callable[[], Any]
    limit: float | None = None
    captum: Callable[[Any, Any, int], Any] | None = None
    slow: bool = False


def _conductance(stage: str) -> Method:
    layer, steps = captum_calls.join_name(stage), captum_calls.STEPS
    name = f"conductance_{steps}_{stage}"
    # Captum's rule, so that both compute the same sum.
    make = partial(tvm_lowbit.Conductance, layer, steps=steps, rule="left")
    return Method(name, make, 60.0, captum_calls.conductance(stage), slow=True)


_ROWS = (
    Method("deeplift_rescale", tvm_lowbit.DeepLift, 2.5, captum_calls.deep_lift),
    Method("deeplift_genomics", partial(tvm_lowbit.DeepLift, rule="genomics"), 4.0),
    # The genomics rule reveals behind dense layers only, of which ResNet has one, its last: here it is everywhere.
    Method("deeplift_reveal_cancel", partial(tvm_lowbit.DeepLift, rule="reveal_cancel")),
    _conductance("layer4"),
    _conductance("layer3"),
    Method(
        f"integrated_gradients_{captum_calls.STEPS}",
        partial(tvm_lowbit.IntegratedGradients, steps=captum_calls.STEPS),
        captum=captum_calls.integrated_gradients,
        slow=True,
    ),
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


@lru_cache(1)
def prediction(model: Path, size: int) -> Compiled:
    """Prediction alone."""
    return compiled(model, [], image(size))


@lru_cache(1)
def float_network(network: str, size: int, width: float) -> Any:
    """Torch's."""
    return captum_calls.float_network(network, size, width)


def image(size: int) -> Any:
    """What is predicted."""
    return images(size, SEED).numpy()[:1].astype(np.float32)


def ratios(calls: Sequence[Callable[[], Any]], pairs: int, times: int = 1) -> list[dict[str, Any]]:
    """Seconds of all calls in turns: prediction alone and explained, once or several times.

    Parameters
    ----------
    calls : sequence of callable
        Of two, the first is prediction alone.
    pairs : int
        How many turns.
    times : int
        How many times the first of two is called, half of them before the second and half after it; their mean counts.
        What takes as long as fifty predictions is compared with more than one moment.

    Returns
    -------
    list of dict
        For each two of them median milliseconds, the median of the ratios of pairs, and their quartiles.
    """
    found = [
        [_pair(*calls[i : i + 2], times) for i in range(0, len(calls), 2)]  # in turns
        for _ in range(pairs)
    ]
    return [_compared(np.array(column)) for column in zip(*found, strict=True)]


def _pair(alone: Callable[[], Any], explained: Callable[[], Any], times: int) -> tuple[float, float]:
    before = [_seconds(alone) for _ in range(times - times // 2)]
    whole = _seconds(explained)
    after = [_seconds(alone) for _ in range(times // 2)]
    return float(np.mean(before + after)), whole


def _compared(times: Any) -> dict[str, Any]:
    low, middle, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75))
    alone_ms, explained_ms = np.median(times, axis=0) * 1e3
    return {
        "alone_ms": float(alone_ms),
        "explained_ms": float(explained_ms),
        "ratio": float(middle),
        "quartiles": [float(low), float(high)],
        "pairs": len(times),
    }


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(
    network: str, kind: str, method: Method, *, size: int, width: float, pairs: int, slow_pairs: int, cache: Path
) -> Any:
    """One row of the result.

    Parameters
    ----------
    network, kind : str
        As `benchmarks.sources.write_model` takes them.
    method : Method
        What to compile in.
    size, width
        Pixels of a side, and a factor of channels.
    pairs, slow_pairs : int
        How many times all are called, and how many times where that takes seconds.
    cache : Path
        Folder of the models, written where they are missing.
    """
    model = cache / f"{network}_{kind}_{size}_{width:g}.onnx"
    write_model(network, kind, model, size=size, width=width, seed=SEED)
    x = image(size)
    alone, explained = prediction(model, size), compiled(model, [method.make()], x)
    (explanation,) = explained.artifact.run(x).explanations.values()
    # Of layers, the last: those of `Conductance` have one.
    gap = [explanation.values, *explanation.layers.values()][-1]["gap"]
    calls = [alone.call, explained.call]
    if method.captum is not None:
        calls += captum_calls.calls(float_network(network, size, width), x, method.captum)
    for call in calls:
        call()
    ours, *others = ratios(calls, *((slow_pairs, 24) if method.slow else (pairs, 1)))
    return {
        "network": network,
        "kind": kind,
        "method": method.name,
        "limit": method.limit,
        **ours,
        "captum": others[0] if others else None,
        "gap": float(np.abs(gap).max()),
        "bytes_alone": alone.sizes,
        "bytes_explained": explained.sizes,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows, to print."""
    shown = Table(*HEAD)
    for row in rows:
        shown.add_row(*cells(row))
    return shown


@click.command()
@click.option("--network", default="resnet18", type=click.Choice(sorted(NETWORKS)), help="Which network.")
@click.option("--kind", "kinds", multiple=True, default=("fp32", "w2a2"), help="fp32 or w2a2; may be repeated.")
@click.option("--method", "methods", multiple=True, default=tuple(METHODS), type=click.Choice(sorted(METHODS)))
@click.option("--pairs", default=21, type=click.IntRange(1), help="How many times all are called.")
@click.option("--slow-pairs", default=3, type=click.IntRange(1), help="How many times where that takes seconds.")
@click.option("--size", default=224, type=click.IntRange(1), help="Pixels of a side.")
@click.option("--width", default=1.0, type=float, help="A factor of channels.")
@click.option("--cache", default=Path("out/explanations"), type=PATH, help="Folder of the models.")
@click.option("--out", default=Path("out/explanations/speed.json"), type=PATH, help="What to write.")
@click.option("--docs", type=PATH, help="A page to write; the results beside it, as JSON, instead of --out.")
@click.option("--only-write", is_flag=True, help="Measure nothing: the page of the results at hand.")
def main(
    kinds: tuple[str, ...],
    methods: tuple[str, ...],
    out: Path,
    docs: Path | None,
    only_write: bool,
    **given: Any,
) -> None:
    """Time prediction with an explanation against prediction alone, and write both as JSON."""
    out = docs.with_suffix(".json") if docs else out
    if not only_write:
        rows = []
        for kind in kinds:
            for name in methods:
                rows.append(measure(kind=kind, method=METHODS[name], **given))
                Console(width=200).print(" | ".join(cells(rows[-1])), highlight=False)
                write(out, rows)
        Console(width=200).print(table(rows))
    if docs:
        docs.write_text(markdown(json.loads(out.read_text())))


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """The rows as JSON, with what they were measured on."""
    machine = {"machine": platform.machine(), "core": processor(), "threads": 1, "seed": SEED}
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"rows": rows, **machine, "versions": versions}, indent=2) + "\n")


def processor() -> str:
    """LLVM's name of this machine's processor."""
    return str(tvm.get_global_func("target.llvm_get_system_cpu")())


if __name__ == "__main__":
    main()
