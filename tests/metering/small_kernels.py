"""Kernels whose work is known without compiling them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T


def _function(size: int, body: Any) -> Any:
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        x = T.arg("x", T.buffer((size,), "uint8"))
        y = T.arg("y", T.buffer((size,), "uint8"))
        body(x, y)
    return builder.get()


def increment(size: int) -> Any:
    """``y = x + 1``: each byte is loaded once and stored once."""

    def body(x: Any, y: Any) -> None:
        with T.serial(0, size) as i:
            T.buffer_store(y, x[i] + T.uint8(1), [i])

    return _function(size, body)


def calling(name: str) -> Any:
    """Calls a function of the C library that takes and gives nothing of interest."""

    def body(x: Any, y: Any) -> None:
        T.evaluate(T.call_extern("int32", name))

    return _function(16, body)


def arguments(size: int) -> list[Any]:
    """What these kernels take."""
    return [np.arange(size, dtype=np.uint8), np.zeros(size, np.uint8)]
