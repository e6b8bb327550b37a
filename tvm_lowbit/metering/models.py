"""``meter_model``: the estimated cycles of a whole compiled model, layer by layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.cores import CoreSpec, find_core
from schedules.errors import LowbitError
from tvm_lowbit.artifact import Artifact
from tvm_lowbit.manifest import KernelRow
from tvm_lowbit.metering.counting import run_job
from tvm_lowbit.metering.counts import OUTSIDE, Call, Counts, Segment
from tvm_lowbit.metering.elf import read_symbols
from tvm_lowbit.metering.estimate import Estimate, combined, estimate
from tvm_lowbit.metering.job import Job
from tvm_lowbit.metering.price import pipeline_of

Array = npt.NDArray[Any]
ENTRY = "__tvm_ffi_"
# What TVM exports beside its kernels.
_NOT_KERNELS = frozenset({f"{ENTRY}main", f"{ENTRY}_library_bin", f"{ENTRY}_library_ctx"})


@dataclass(frozen=True)
class StepEstimate:
    """One call of a kernel during the call of the model, or all that ran outside of kernels.

    Attributes
    ----------
    name : str
        The layer, or the kernel where it is of no low-bit layer.
    symbol : str
        The kernel's function; empty outside of kernels.
    bits, technique : str
        Of a low-bit layer.
    macs : int
        Multiply-accumulates of a low-bit layer.
    limit : float or None
        Fewest cycles its technique's arithmetic can take.
    estimate : Estimate
        What it costs.
    """

    name: str
    symbol: str
    bits: str
    technique: str
    macs: int
    limit: float | None
    estimate: Estimate

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates per estimated cycle."""
        return self.macs / self.estimate.cycles

    @property
    def share(self) -> float | None:
        """How much of the limit's speed is reached, 0 to 1."""
        return None if self.limit is None else self.limit / self.estimate.cycles


@dataclass(frozen=True)
class ModelEstimate:
    """What one call of a model costs, all that it executes included.

    Attributes
    ----------
    core : str
        Whose execution units and caches.
    total : Estimate
        The whole call; lines that several steps touch count once.
    steps : sequence of StepEstimate
        Its parts in the order they ran; last, what ran outside of kernels. They sum to the total.
    library : int
        Bytes of the shared library.
    memory : int
        Bytes of the heap that the loaded model holds once it has run: weights, activations, work space.
    """

    core: str
    total: Estimate
    steps: Sequence[StepEstimate]
    library: int
    memory: int


def meter_model(
    artifact: Artifact,
    inputs: Mapping[str, Array] | None = None,
    *,
    core: CoreSpec | None = None,
    caches: bool = True,
    patience: float = 1800.0,
) -> ModelEstimate:
    """Estimate the cycles of one call of a compiled model on one thread, the second after it was loaded.

    Parameters
    ----------
    artifact : Artifact
        Built for an Arm core.
    inputs : mapping of str to array, optional
        One batch by name; made up by default.
    core : CoreSpec, optional
        Whose pipeline prices, by default the one that the artefact was built for.
    caches : bool
        Whether to follow the core's caches too, which takes about twice as long.
    patience : float
        Seconds after which the emulator is stopped.

    Returns
    -------
    ModelEstimate

    Raises
    ------
    LowbitError
        For an artefact that is not for Arm, a core without a pipeline, what is not installed, or a model that does
        not run to its end.
    """
    manifest = artifact.manifest
    if not manifest.mtriple.startswith("aarch64"):
        raise LowbitError("estimate", "a library for aarch64", manifest.mtriple, "build it for a board: --target rpi4")
    core = core or find_core(manifest.core)
    return meter_library(
        artifact.library(), _inputs(artifact, inputs), core, manifest.kernels, caches=caches, patience=patience
    )


def meter_library(
    library: Path,
    inputs: Sequence[Array],
    core: CoreSpec,
    rows: Iterable[KernelRow] = (),
    *,
    caches: bool = True,
    patience: float = 1800.0,
    warm: bool = True,
) -> ModelEstimate:
    """Estimate the cycles of one call of any library for TVM's virtual machine, whoever compiled it.

    Parameters
    ----------
    library : Path
        Linked for aarch64; its function ``main`` is called.
    inputs : sequence of array
        What ``main`` takes.
    core : CoreSpec
        Whose pipeline prices.
    rows : iterable of KernelRow
        What the kernels of low-bit layers compute, in the order they run.
    caches, patience
        As of `meter_model`.
    warm : bool
        Whether to call once before the call that counts. The kernels' cycles are the same without, where their loops
        do not depend on values; misses are then those of empty caches.

    Returns
    -------
    ModelEstimate

    Raises
    ------
    LowbitError
        For a core without a pipeline, what is not installed, or a library that does not run to its end.
    """
    pipeline_of(core.name)
    symbols = [name for name in read_symbols(library).names if name.startswith(ENTRY) and name not in _NOT_KERNELS]
    with tempfile.TemporaryDirectory(prefix="tvm_lowbit-") as folder:
        job = Job(Path(folder))
        job.load(library, symbols)
        job.function("main", machine=True)
        for array in inputs:
            job.argument(array)
        job.call(0, warm=warm)
        counts = run_job(job, core, caches=caches, timeout=patience)
    if 0 not in counts.segments:
        raise LowbitError("estimate", "a model that runs to its end", counts.failure or "nothing was counted")
    segment = counts.segments[0]
    names = [symbol.removeprefix(ENTRY) for symbol in symbols]
    steps = _steps(counts, segment, library, names, rows, core.name)
    total = combined([step.estimate for step in steps])
    if total.traffic is not None and segment.lines is not None:
        # What several steps touch counts once.
        total = replace(total, traffic=replace(total.traffic, lines=segment.lines))
    return ModelEstimate(
        core=core.name,
        total=total,
        steps=steps,
        library=library.stat().st_size,
        memory=counts.heap,
    )


def _inputs(artifact: Artifact, given: Mapping[str, Array] | None) -> list[Array]:
    random = np.random.default_rng(0)
    arrays = []
    for row in artifact.manifest.inputs:
        array = random.random(row.shape, np.float32) if given is None else given.get(row.name)
        if array is None or array.shape != row.shape or array.dtype != np.float32:
            got = "none" if array is None else f"{array.dtype} {array.shape}"
            raise LowbitError(f"input {row.name}", f"float32 {row.shape}", got)
        arrays.append(array)
    return arrays


def _steps(
    counts: Counts,
    segment: Segment,
    library: Path,
    names: Sequence[str],
    rows: Iterable[KernelRow],
    core: str,
) -> list[StepEstimate]:
    """Each call of a kernel with the layer whose turn it is among those that share the kernel."""
    turns: dict[str, list[KernelRow]] = {}
    for row in rows:
        turns.setdefault(row.symbol, []).append(row)
    steps: list[StepEstimate] = []
    outside: list[Call] = []
    for call in segment.calls:
        if call.kernel == OUTSIDE:
            outside.append(call)
            continue
        symbol = names[call.kernel]
        row = turns[symbol].pop(0) if turns.get(symbol) else KernelRow(symbol=symbol, layer=symbol, **_PLAIN)
        cost = estimate(counts, segment, [call], core, (library.resolve(), symbol))
        steps.append(StepEstimate(row.layer, symbol, row.bits, row.technique, row.macs, row.limit, cost))
    if outside:
        cost = estimate(counts, segment, outside, core)
        steps.append(StepEstimate("outside of kernels", "", "", "", 0, None, cost))
    return steps


_PLAIN: dict[str, Any] = {"bits": "", "technique": "", "macs": 0}
