"""A kernel to run on boards, and the targets to compile it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm import te

from tvm_lowbit.linker import Linker

ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "mattr": ["+neon"], "num-cores": 4}
HOST = {"kind": "llvm", "num-cores": 1}
LENGTH = 24


def axpy(scale: int) -> tvm.IRModule:
    """Build ``out = scale * a + b`` on int32."""
    a, b = (te.placeholder((LENGTH,), "int32", name) for name in "ab")
    out = te.compute((LENGTH,), lambda i: a[i] * scale + b[i], "out")
    return tvm.IRModule({"axpy": te.create_prim_func([a, b, out]).with_attr("global_symbol", "axpy")})


def export(module: Any, target: dict[str, Any], path: Path, linker: Linker) -> Path:
    """Compile for a target and link."""
    tvm.compile(module, tvm.target.Target(target)).export_library(str(path), fcompile=linker)
    return path
