"""The reference run, done once at compile time by the same integer operators that the library will use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from relay_passes import dataflow
from relay_passes.compile import compile_module
from relay_passes.lower import lower_lowbit
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core


def run_reference(mod: Any, inputs: list[npt.NDArray[np.float32]], wanted: list[int]) -> list[npt.NDArray[Any]]:
    """Values of chosen bindings of ``main``, computed on this machine.

    Every technique is exact and elementwise float kernels round alike on all machines, so these are, bit for bit, what
    the library computes for this input wherever it runs.

    Parameters
    ----------
    mod : IRModule
        After detection, before rewriting.
    inputs : list of arrays
        One for each parameter.
    wanted : list of int
        Positions in ``dataflow.bindings``.

    Returns
    -------
    list of arrays
        In the order of ``wanted``.
    """
    found: list[Any] = []

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        found.append(dataflow.keep(var, value, scope))
        return found[-1]

    several = dataflow.rebuild(mod, visit, lambda body, scope: relax.Tuple([found[i] for i in wanted]))
    core = host_core()
    lowered = lower_lowbit(rewrite_lowbit(several), core)
    machine = relax.VirtualMachine(compile_module(lowered, tvm.target.Target(core.target_dict())), tvm.cpu())
    values = machine["main"](*map(tvm.runtime.tensor, inputs))
    return [values[i].numpy() for i in range(len(wanted))]
