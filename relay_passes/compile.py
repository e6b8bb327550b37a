"""From a lowered Relax module to an executable of TVM's virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from relay_passes.pin_rounding import pin_rounding


def compile_module(mod: Any, target: Any, step: Callable[[str], None] = lambda name: None) -> Any:
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

    Returns
    -------
    tvm.relax.VMExecutable
    """
    pin = tvm.transform.module_pass(lambda module, _context: pin_rounding(module), opt_level=0, name="PinRounding")
    told = tvm.transform.module_pass(lambda module, _context: _said(step, "code", module), opt_level=0, name="Told")
    passes = [
        relax.backend.DispatchSampling(),
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        pin,
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
        told,
    ]
    step("fuse")
    with target:
        return relax.build(mod, target, relax_pipeline=tvm.transform.Sequential(passes))


def _said(step: Callable[[str], None], name: str, mod: Any) -> Any:
    step(name)
    return mod
