"""Plain TVM: an ONNX file compiled by its default CPU pipeline, as `relax.get_default_pipeline` spells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline
from tvm.relax.frontend.onnx import from_onnx

from schedules.cores import CoreSpec
from tvm_lowbit.linker import find_linker
from tvm_lowbit.quiet import without_scope_warnings


def fused_module(model: Path, core: CoreSpec) -> Any:
    """The model with each operator a PrimFunc and neighbours fused, as TVM does it; no kernel has a schedule yet.

    Parameters
    ----------
    model : Path
        An ONNX file.
    core : CoreSpec
        What to compile for.
    """
    target = tvm.target.Target(core.target_dict())
    passes = [*pipeline.library_dispatch_passes(target), *pipeline.legalize_passes(target)]
    with target:
        return tvm.transform.Sequential(passes)(from_onnx(onnx.load(model)))


def compile_fused(mod: Any, core: CoreSpec, library: Path, schedule: Callable[[Any], Any] | None = None) -> Path:
    """Compile a fused module and link it.

    Parameters
    ----------
    mod : IRModule
        As `fused_module` returns it.
    core : CoreSpec
        What to compile for.
    library : Path
        What to write.
    schedule : callable, optional
        Gives a kernel's scheduled PrimFunc, or None to leave it as it is.
    """
    target = tvm.target.Target(core.target_dict())
    if schedule is not None:
        mod = tvm.IRModule({name: schedule(function) or function for name, function in mod.functions.items()})
    passes = [*pipeline.dataflow_lower_passes(target), *pipeline.finalize_passes(target)]
    with target:
        compiled = tvm.compile(mod, target, relax_pipeline=tvm.transform.Sequential(passes))
    with without_scope_warnings():
        compiled.export_library(str(library), fcompile=find_linker(core.mtriple.split("-")[0]))
    return library


def float_convolutions(mod: Any) -> tuple[int, int]:
    """How many convolutions and products a fused module sums in float, and in integers."""
    found = [0, 0]
    for function in mod.functions.values():
        if isinstance(function, relax.Function):
            continue
        text = function.script()
        if "conv" in text or "matmul" in text:
            integers = 'T.Cast("int32"' in text and '"int8"' in text
            found[integers] += 1
    return found[0], found[1]
