"""From a lowered Relax module to an executable of TVM's virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from relay_passes.early import call_early
from relay_passes.inline_chains import inline_chains
from relay_passes.memory import MemoryPlan, plan_of
from relay_passes.pin_rounding import pin_rounding
from relay_passes.prologues import fuse_prologues
from relay_passes.recompute import recompute
from relay_passes.repeats import share_columns
from relay_passes.storage import plan_storage
from relay_passes.workspaces import lift_workspaces


def compile_module(
    mod: Any,
    target: Any,
    step: Callable[[str], None] = lambda name: None,
    planned: Callable[[MemoryPlan], None] = lambda plan: None,
) -> Any:
    """Compile.

    TVM's default CPU pipeline without its constant folding, which would blow packed weights up to floats, and with
    `pin_rounding` after fusion.

    Parameters
    ----------
    mod : IRModule
        After `lower.lower_lowbit`.
    target : tvm.target.Target
        Where the library will run.
    step : callable, optional
        Told ``fuse`` and ``code`` as they begin: fusion into kernels, and their compilation by LLVM.
    planned : callable, optional
        Told what memory the program takes.

    Returns
    -------
    tvm.relax.VMExecutable
    """
    prologues = _changed("FusePrologues", lambda module: fuse_prologues(module, vector_lanes(target)))
    chains = _changed("InlineChains", lambda module: inline_chains(module, vector_lanes(target)))
    pin = _changed("PinRounding", pin_rounding)
    passes = [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        _changed("ShareColumns", share_columns),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        _changed("Recompute", recompute),
        # What is computed again need not be computed before, too, where nobody else reads it.
        relax.transform.DeadCodeElimination(["main"]),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        prologues,
        chains,
        pin,
        _changed("CallEarly", call_early),
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        _changed("LiftWorkspaces", lift_workspaces),
        _changed("PlanStorage", plan_storage),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        _seen("Planned", lambda module: planned(plan_of(module))),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
        _seen("Told", lambda module: step("code")),
    ]
    step("fuse")
    with target:
        return relax.build(mod, target, relax_pipeline=tvm.transform.Sequential(passes))


def vector_lanes(target: Any) -> int:
    """How many float32 a register of the target's vectors holds."""
    with target:
        return int(tvm.get_global_func("target.llvm_get_vector_width")(target)) // 32


def _changed(name: str, change: Callable[[Any], Any]) -> Any:
    return tvm.transform.module_pass(lambda module, _context: change(module), opt_level=0, name=name)


def _seen(name: str, look: Callable[[Any], None]) -> Any:
    """A pass that changes nothing."""

    def run(mod: Any, _context: Any) -> Any:
        look(mod)
        return mod

    return tvm.transform.module_pass(run, opt_level=0, name=name)
