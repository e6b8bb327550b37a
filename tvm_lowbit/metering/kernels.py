"""``meter_kernel``: the estimated cycles of PrimFuncs, many in one run of the emulator."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from schedules.cores import CoreSpec, find_core
from schedules.errors import LowbitError
from tvm_lowbit.linker import find_linker
from tvm_lowbit.metering.counting import run_job
from tvm_lowbit.metering.counts import Counts
from tvm_lowbit.metering.estimate import Estimate, estimate
from tvm_lowbit.metering.job import Job
from tvm_lowbit.metering.price import pipeline_of
from tvm_lowbit.quiet import without_scope_warnings

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Metered:
    """What became of one kernel: its estimate and what it wrote, or why there is none."""

    estimate: Estimate | None
    output: Array | None = None
    failure: str | None = None


def meter_kernel(
    function: Any, arguments: Sequence[Array], core: str | CoreSpec, *, caches: bool = False, patience: float = 300.0
) -> Estimate:
    """Estimate the cycles of one kernel; see `meter_kernels`.

    Raises
    ------
    LowbitError
        When something is not installed, the core's pipeline is not known, or the kernel does not run to its end.
    """
    (metered,) = meter_kernels([(function, arguments)], core, caches=caches, patience=patience)
    if metered.estimate is None:
        raise LowbitError("metering a kernel", "a call that ends", str(metered.failure))
    return metered.estimate


def meter_kernels(
    candidates: Sequence[tuple[Any, Sequence[Array]]],
    core: str | CoreSpec,
    *,
    caches: bool = False,
    patience: float = 300.0,
    warm: bool = True,
) -> list[Metered]:
    """Estimate the cycles of kernels, without TVM's virtual machine.

    Each is called twice, if it is to be ``warm``, and its last call counted, from the entry of the compiled function to
    its return, with all that it calls. One that crashes costs the others nothing.

    Parameters
    ----------
    candidates : sequence of (PrimFunc, arguments)
        What to compile, and the arrays to pass: inputs, constants, and last what it writes.
    core : str or CoreSpec
        An Arm core with a row in `schedules.pipelines.PIPELINES`.
    caches : bool
        Whether to follow caches too.
    patience : float
        Seconds to wait for each.
    warm : bool
        Whether to call once before the call that counts.

    Returns
    -------
    list of Metered
        One for each, in order; ``output`` is the last argument as the calls left it.

    Raises
    ------
    LowbitError
        When something is not installed, or the core's pipeline is not known.
    """
    spec = find_core(core) if isinstance(core, str) else core
    pipeline_of(spec.name)
    names = [f"candidate{i}" for i in range(len(candidates))]
    with tempfile.TemporaryDirectory(prefix="tvm_lowbit-") as folder:
        library = Path(folder) / "kernels.so"
        _compile({name: function for name, (function, _) in zip(names, candidates, strict=True)}, spec, library)
        job = Job(Path(folder))
        job.load(library, [f"__tvm_ffi_{name}" for name in names])
        results = []
        for i, (name, (_, arguments)) in enumerate(zip(names, candidates, strict=True)):
            # Apart, as what TVM's runtime does for a kernel depends on those that ran before.
            with job.apart(math.ceil(patience)):
                job.function(name)
                for array in arguments:
                    job.argument(array)
                job.call(i, warm=warm)
                results.append(job.save(len(arguments) - 1))
        counts = run_job(job, spec, caches=caches, timeout=patience * (len(candidates) + 1))
        return [
            _metered(counts, i, spec.name, path, arguments[-1])
            for i, (path, (_, arguments)) in enumerate(zip(results, candidates, strict=True))
        ]


def _metered(counts: Counts, number: int, core: str, path: Path, last: Array) -> Metered:
    segment, ending = counts.segments.get(number), counts.apart[number] if number < len(counts.apart) else None
    if segment is None or ending is not None or not path.exists():
        return Metered(None, failure=ending or counts.failure or "the emulator counted nothing")
    calls = [call for call in segment.calls if call.kernel == number]
    return Metered(estimate(counts, segment, calls, core), np.fromfile(path, last.dtype).reshape(last.shape))


def _compile(functions: dict[str, Any], core: CoreSpec, library: Path) -> None:
    symbols = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    compiled = tvm.compile(tvm.IRModule(symbols), tvm.target.Target(core.target_dict()))
    with without_scope_warnings():
        compiled.export_library(str(library), fcompile=find_linker("aarch64"))
