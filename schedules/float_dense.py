"""Float32 products with weights: lanes are neighbouring outputs, each one chain of fused multiply-adds over K."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.float_block import Width, fma, frame, width
from schedules.intrinsics import const, splat, vload, vstore
from schedules.reads import FIRST, FIRST_BYTES
from schedules.registers import Registers
from schedules.techniques.base import PARALLEL_MACS

# Rows and vectors of outputs in a block: eight sums are under way at least, and registers are left for the weights.
_BLOCKS = ((1, 8), (2, 4), (4, 2), (8, 1), (6, 2), (4, 4))
_NARROW = ((1, 8), (2, 4), (4, 2), (8, 1), (6, 2))


def block(rows: int, outputs: int, by: Width) -> tuple[int, int]:
    """Rows and vectors of outputs of a block that compute the product in the fewest steps."""

    def steps(shape: tuple[int, int]) -> float:
        height, vectors = shape
        whole, rest = divmod(rows, height)
        blocks = -(-outputs // (vectors * by.lanes))
        return blocks * sum(
            n * max(each * vectors / 2, (each + vectors) / 2, 4) for n, each in ((whole, height), (bool(rest), rest))
        )

    return min(_NARROW if by.narrow else _BLOCKS, key=steps)


def pack_dense(weights: npt.NDArray[np.float32], channels: int) -> npt.NDArray[np.float32]:
    """Weights ``(K, N)`` as the kernel reads them: ``(blocks, K, channels)``."""
    k, n = weights.shape
    blocks = -(-n // channels)
    padded = np.pad(weights, ((0, 0), (0, blocks * channels - n)))
    return np.ascontiguousarray(padded.reshape(k, blocks, channels).transpose(1, 0, 2), np.float32)


def dense_kernel(rows: int, k: int, outputs: int, core: CoreSpec) -> Any:
    """A PrimFunc of (``(rows, K)``, packed weights, ``(rows, outputs)``).

    Raises
    ------
    ValueError
        If the core has no fused multiply-add.
    """
    by = width(core)
    if by is None:
        raise ValueError(f"{core.name} has no fused multiply-add")
    height, vectors = block(rows, outputs, by)
    channels = vectors * by.lanes
    blocks = -(-outputs // channels)
    loop = T.parallel if rows * k * outputs >= PARALLEL_MACS else T.serial

    def body(x: Any, weights: Any, out: Any) -> None:
        def tile(cb: Any, row: Any, number: int) -> None:
            acc = Registers([(i, j) for i in range(number) for j in range(vectors)], "float32", by.lanes)
            with T.serial(0, k) as at:
                ws = Registers([(0, j) for j in range(vectors)], "float32", by.lanes, clear=False)
                for j in range(vectors):
                    ws[0, j] = vload(weights, [cb, at, const(j * by.lanes)], by.lanes)
                for i in range(number):
                    value = splat(x[row + i, at], by.lanes)
                    for j in range(vectors):
                        acc[i, j] = fma(value, ws[0, j], acc[i, j], by.lanes)
            sums = T.alloc_buffer((number, channels), "float32")
            for i in range(number):
                for j in range(vectors):
                    vstore(T, sums, acc[i, j], [const(i), const(j * by.lanes)], by.lanes)
            kept = channels if outputs % channels == 0 else tirx.min(const(channels), outputs - cb * channels)
            with T.serial(0, number) as i, T.serial(0, kept) as j:
                T.buffer_store(out, sums[i, j], [row + i, cb * channels + j])

        with loop(0, blocks) as cb:
            whole, rest = divmod(rows, height)
            if whole:
                with T.serial(0, whole) as i:
                    tile(cb, i * height, height)
            if rest:
                tile(cb, const(whole * height), rest)

    kernel = frame([("x", (rows, k)), ("weights", (blocks, k, channels)), ("out", (rows, outputs))], body)
    return kernel.with_attr(FIRST, [0]) if rows * k * 4 <= FIRST_BYTES else kernel
