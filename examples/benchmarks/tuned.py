"""Schedules that TVM's MetaSchedule finds for plain TVM's kernels, by the same estimate that judges the result.

Its space for CPUs (`post-order-apply`; what it adds for Arm are products of bytes) is sampled at random by
`replay-trace`; each candidate is compiled, run under emulation, compared with the kernel as it was, and priced.
Emulated time ranks nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm

from schedules.cores import CoreSpec, host_core
from tvm_lowbit.metering.kernels import meter_kernels

Array = npt.NDArray[Any]
BATCH = 8
# Sums are taken in another order.
TOLERANCE = 1e-3


def key_of(function: Any) -> str:
    """What identifies a kernel from run to run, its name left out."""
    return hashlib.sha256(_alone(function).script().encode()).hexdigest()[:16]


class Schedules:
    """The best trace of each kernel, one JSON line each in a file that a search appends to.

    Parameters
    ----------
    path : Path
        The file; missing at first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            whole = path.read_text().rpartition("\n")[0]  # a process may have been ended in the middle of a line
            for line in whole.splitlines():
                row = json.loads(line)
                self.rows[row["key"]] = row
            path.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows.values()))

    def holds(self, key: str, trials: int) -> bool:
        """Whether a kernel was searched with so many candidates."""
        return key in self.rows and self.rows[key]["wanted"] >= trials

    def add(self, row: dict[str, Any]) -> None:
        """Keep a kernel's row."""
        self.rows[row["key"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def scheduled(self, function: Any) -> Any:
        """The kernel with its best schedule, or None where none is known."""
        row = self.rows.get(key_of(function)) if isinstance(function, tvm.tirx.PrimFunc) else None
        if row is None or row["trace"] is None:
            return None
        schedule = tvm.s_tir.Schedule(_alone(function))
        tvm.s_tir.schedule.Trace.apply_json_to_schedule(row["trace"], schedule)
        return _like(function, schedule.mod["main"])


def tune(
    function: Any, core: CoreSpec, trials: int, seed: int, patience: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Search one kernel.

    Parameters
    ----------
    function : PrimFunc
        Of a fused module.
    core : CoreSpec
        Whose estimate ranks.
    trials : int
        Candidates to draw.
    seed : int
        Of the draw and of the operands.
    patience : float
        Seconds after which a candidate is given up.
    tell : callable
        Told how far it is.

    Returns
    -------
    dict
        Of `Schedules`: key, estimated cycles, trace; ``trace`` is None where no candidate ran and was right.
    """
    from tvm.s_tir import meta_schedule as ms

    mod, target = _alone(function), tvm.target.Target(core.target_dict())
    arguments = _arguments(mod["main"], seed)
    expected = _result(function, arguments)
    with _without_intrinsics():
        context = ms.TuneContext(
            mod=mod,
            target=target,
            space_generator=ms.space_generator.PostOrderApply(
                sch_rules=ms.ScheduleRule.create("llvm"),
                postprocs=ms.Postproc.create("llvm"),
                mutator_probs=ms.Mutator.create("llvm"),
            ),
            search_strategy="replay-trace",
            task_name="kernel",
            rand_state=seed,
            num_threads=1,
        )
    context.pre_tuning(
        max_trials=trials,
        num_trials_per_iter=BATCH,
        design_spaces=context.generate_design_space(),
        database=ms.database.MemoryDatabase(),
        cost_model=ms.cost_model.RandomModel(),
    )
    best: dict[str, Any] = {"key": key_of(function), "cycles": None, "trace": None}
    done, failed, wrong = 0, 0, 0
    while (candidates := context.generate_measure_candidates()) is not None:
        kernels = [(candidate.sch.mod["main"], arguments) for candidate in candidates]
        rows = meter_kernels(kernels, core, patience=patience, warm=False)
        for candidate, row in zip(candidates, rows, strict=True):
            right = row.output is not None and np.allclose(row.output, expected, rtol=TOLERANCE, atol=TOLERANCE)
            failed += row.estimate is None
            wrong += row.estimate is not None and not right
            if row.estimate is None or not right:
                continue
            if best["cycles"] is None or row.estimate.cycles < best["cycles"]:
                trace = json.loads(json.dumps(_plain(candidate.sch.trace.as_json())))
                best |= {"cycles": row.estimate.cycles, "trace": trace}
        done += len(rows)
        tell(f"{done} of {trials} candidates")
        results = [ms.runner.RunnerResult([row.estimate.cycles if row.estimate else 1e10], None) for row in rows]
        context.notify_runner_results(candidates, results)
    context.post_tuning()
    return best | {"wanted": trials, "trials": done, "failed": failed, "wrong": wrong, "core": core.name, "seed": seed}


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """A context imports all tensor intrinsics, which takes half a minute; the rules of CPUs in general name none."""
    name = "tvm.s_tir.tensor_intrin"
    known = sys.modules.get(name)
    sys.modules[name] = known or ModuleType(name)
    try:
        yield
    finally:
        if known is None:
            del sys.modules[name]


def _alone(function: Any) -> Any:
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def _like(function: Any, scheduled: Any) -> Any:
    """A scheduled kernel under the name that the module calls it by."""
    attrs = function.attrs or {}
    if "global_symbol" in attrs:
        return scheduled.with_attr("global_symbol", attrs["global_symbol"])
    return scheduled.without_attr("global_symbol")


def _arguments(function: Any, seed: int) -> list[Array]:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo

    random = np.random.default_rng(seed)
    tensors: Sequence[Any] = ArgInfo.from_prim_func(function)
    return [_operand(tuple(map(int, row.shape)), str(row.dtype), random) for row in tensors]


def _operand(shape: tuple[int, ...], dtype: str, random: Any) -> Array:
    if np.dtype(dtype).kind == "f":
        return (random.random(shape) - 0.5).astype(dtype)
    return np.zeros(shape, dtype)


def _result(function: Any, arguments: Sequence[Array]) -> Array:
    """What the kernel writes without a schedule, computed on this machine."""
    target = tvm.target.Target(host_core().target_dict())
    compiled = tvm.compile(_alone(function), target)
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    compiled["main"](*tensors)
    return tensors[-1].numpy()


def _plain(value: Any) -> Any:
    """TVM's arrays and numbers as JSON has them."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value
    if hasattr(value, "value"):
        return value.value
    return [_plain(item) for item in value]
